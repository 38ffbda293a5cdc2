"""Scaling policies and what they are made of. Pure."""

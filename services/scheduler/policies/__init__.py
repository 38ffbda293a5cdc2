"""Scaling policies and their components. Pure."""

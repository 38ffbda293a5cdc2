"""Frames as rows. Pure."""

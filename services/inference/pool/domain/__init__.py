"""Placement, trust and dependencies. Pure."""

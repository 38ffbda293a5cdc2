"""Batch sizes and priorities. Pure."""

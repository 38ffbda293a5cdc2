"""Checks on a machine with an NVIDIA GPU: `make gpu-check`. Nothing here sets anything on the card."""

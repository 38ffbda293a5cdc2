"""The gateway's connections."""

"""The agent on every node."""

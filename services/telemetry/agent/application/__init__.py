"""The agent's use cases: sampling, inventory and power control."""

"""What the agent does: sampling, inventory and power control."""

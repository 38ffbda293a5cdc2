"""The control loop and what is computed from the fleet's past."""

"""What containers run besides the services."""

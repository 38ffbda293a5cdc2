"""Scripts that run in containers beside the services."""

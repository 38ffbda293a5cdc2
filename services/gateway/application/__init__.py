"""The use cases behind the gateway's routes."""

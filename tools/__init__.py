"""What maintainers run around a release; nothing of it is installed."""

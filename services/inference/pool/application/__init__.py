"""What a pool does."""

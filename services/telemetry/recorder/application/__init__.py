"""What the recorder does."""

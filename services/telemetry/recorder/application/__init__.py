"""The recorder's use cases."""

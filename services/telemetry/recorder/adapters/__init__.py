"""The recorder's database."""

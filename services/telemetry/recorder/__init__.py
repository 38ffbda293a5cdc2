"""The recorder: streams to the database."""

"""The recorder writes the streams to the database."""

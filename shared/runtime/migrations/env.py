"""Alembic's entry: run the migrations on the connection that the caller hands in."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()

"""Whose every row is and who caused it.

Rows of before belong to the project `default`. Samples, links, processes and rollups are about devices: theirs is the
project of the device, and the actor is the agent of its node.
"""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"

PROJECT = "ADD COLUMN project text NOT NULL DEFAULT 'default'"
ACTOR = "ADD COLUMN actor text NOT NULL DEFAULT ''"
TABLES = ("devices", "events", "alerts", "commands", "outcomes", "recommendations", "jobs", "dead_jobs")
STATEMENTS = (
    *(f"ALTER TABLE {table} {PROJECT}, {ACTOR}" for table in TABLES),
    f"ALTER TABLE audit {PROJECT}",
    "UPDATE commands SET actor = issuer",
    "UPDATE jobs SET actor = coalesce(submitter, '')",
    # Two projects may use the same id for two jobs.
    *(
        f"ALTER TABLE {table} DROP CONSTRAINT {table}_pkey, ADD PRIMARY KEY (project, id)"
        for table in ("jobs", "dead_jobs")
    ),
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)

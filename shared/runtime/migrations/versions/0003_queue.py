"""What jobs took, what they cost, and how long the queue was."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"

STATEMENTS = """
ALTER TABLE jobs ADD COLUMN submitter text, ADD COLUMN wait_s real, ADD COLUMN run_s real, ADD COLUMN batch_size int,
  ADD COLUMN prompt_tokens bigint, ADD COLUMN completion_tokens bigint;
CREATE INDEX jobs_submitter ON jobs (submitter, finished_at);
CREATE VIEW job_costs AS
  SELECT j.*, j.energy_j / 3.6e6 AS kwh,
    j.energy_j / 3.6e6 * (SELECT value FROM factors WHERE name = 'price_per_kwh') AS cost,
    j.energy_j / 3.6e6 * (SELECT value FROM factors WHERE name = 'co2_g_per_kwh') AS co2_g
  FROM jobs j;
CREATE TABLE queue (
  ts timestamptz NOT NULL, kind text NOT NULL, priority text NOT NULL, waiting bigint NOT NULL, running bigint NOT NULL,
  PRIMARY KEY (ts, kind, priority)
)
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";"):
        if statement.strip():
            op.execute(statement)

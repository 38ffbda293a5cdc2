"""What is old is found quickly in every table, and jobs say when they were recorded.

A job recorded long after it ended gets its energy like any other. Of jobs recorded before this nothing is known: they
keep what they have.
"""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"

STATEMENTS = """
ALTER TABLE jobs ADD COLUMN recorded_at timestamptz;
ALTER TABLE jobs ALTER COLUMN recorded_at SET DEFAULT now();
CREATE INDEX jobs_without_energy ON jobs (recorded_at) WHERE energy_j IS NULL;
CREATE INDEX jobs_submitted ON jobs (submitted_at);
CREATE INDEX dead_jobs_ts ON dead_jobs (ts);
CREATE INDEX recommendations_ts ON recommendations (ts);
CREATE INDEX alerts_resolved ON alerts (resolved_at);
CREATE TABLE nodes_1h (
  ts timestamptz NOT NULL, node text NOT NULL, devices int NOT NULL, power_w real, power_cap_w real,
  gpu_util_pct real, gpu_util_max_pct real, memory_used_bytes double precision, memory_total_bytes double precision,
  temp_max_c real, throttled int NOT NULL, PRIMARY KEY (ts, node)
)
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";"):
        if statement.strip():
            op.execute(statement)

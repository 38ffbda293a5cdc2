"""The first schema: samples, devices, and every stream as a table.

`samples` is a hypertable where the timescaledb extension can be had, else a table partitioned
by day whose partitions the recorder keeps; queries are the same on both.
"""

from alembic import op
from sqlalchemy import text

revision = "0001"
down_revision = None

COLUMNS = (
    "gpu_util_pct",
    "mem_util_pct",
    "encoder_util_pct",
    "decoder_util_pct",
    "memory_used_bytes",
    "memory_total_bytes",
    "power_w",
    "energy_j",
    "power_cap_w",
    "power_enforced_w",
    "temp_c",
    "temp_mem_c",
    "temp_slowdown_c",
    "fan_pct",
    "clock_sm_mhz",
    "clock_mem_mhz",
    "clock_event_reasons",
    "pcie_replays",
    "ecc_sbe",
    "ecc_dbe",
    "remapped_rows",
    "row_remap_pending",
    "row_remap_failure",
    "processes",
)

TABLES = """
CREATE TABLE devices (
  device_id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  node text NOT NULL, device text NOT NULL,
  model text NOT NULL DEFAULT '', vendor text NOT NULL DEFAULT '', source text NOT NULL DEFAULT '',
  simulated boolean NOT NULL DEFAULT false,
  memory_bytes bigint, power_min_w real, power_max_w real, power_default_w real,
  first_seen timestamptz NOT NULL DEFAULT now(), last_seen timestamptz NOT NULL DEFAULT now(),
  UNIQUE (node, device)
);
CREATE TABLE events (
  id text PRIMARY KEY, ts timestamptz NOT NULL, node text NOT NULL, device text NOT NULL, kind text NOT NULL,
  code int, message text NOT NULL, simulated boolean NOT NULL
);
CREATE TABLE alerts (
  id text PRIMARY KEY, node text NOT NULL, device text NOT NULL, kind text NOT NULL, severity text NOT NULL,
  state text NOT NULL, summary text NOT NULL, opened_at timestamptz NOT NULL, updated_at timestamptz NOT NULL,
  resolved_at timestamptz, evidence jsonb NOT NULL, simulated boolean NOT NULL
);
CREATE TABLE commands (
  id text PRIMARY KEY, ts timestamptz NOT NULL, kind text NOT NULL, target text NOT NULL, issuer text NOT NULL,
  reason text NOT NULL, expires_at timestamptz NOT NULL, body jsonb NOT NULL
);
CREATE TABLE outcomes (
  id text PRIMARY KEY, command_id text NOT NULL, ts timestamptz NOT NULL, kind text NOT NULL, target text NOT NULL,
  status text NOT NULL, detail text NOT NULL, requested real, applied real, read_back real
);
CREATE INDEX outcomes_command ON outcomes (command_id);
CREATE TABLE recommendations (
  id text PRIMARY KEY, ts timestamptz NOT NULL, scope text NOT NULL, action text NOT NULL, reason text NOT NULL,
  expected_effect text NOT NULL, confidence real NOT NULL, evidence jsonb NOT NULL
);
CREATE TABLE jobs (
  id text PRIMARY KEY, kind text NOT NULL, status text NOT NULL, node text NOT NULL, worker text NOT NULL,
  device text NOT NULL, attempt int NOT NULL, submitted_at timestamptz NOT NULL, started_at timestamptz,
  finished_at timestamptz NOT NULL, error text
);
CREATE INDEX jobs_finished ON jobs (finished_at);
CREATE TABLE dead_jobs (
  id text PRIMARY KEY, ts timestamptz NOT NULL, kind text NOT NULL, reason text NOT NULL, errors jsonb NOT NULL
);
CREATE TABLE audit (
  id text PRIMARY KEY, ts timestamptz NOT NULL, actor text NOT NULL, action text NOT NULL, target text NOT NULL,
  detail jsonb NOT NULL
);
CREATE INDEX audit_ts ON audit (ts);
CREATE TABLE frame_gaps (
  node text NOT NULL, ts timestamptz NOT NULL, missing bigint NOT NULL
);
"""


def upgrade() -> None:
    connection = op.get_bind()
    has_timescale = connection.execute(
        text("SELECT count(*) FROM pg_available_extensions WHERE name = 'timescaledb'")
    ).scalar()
    metrics = ", ".join(
        f"{name} {'double precision' if name.endswith(('_bytes', '_j')) else 'real'}" for name in COLUMNS
    )
    samples = (
        f"CREATE TABLE samples (ts timestamptz NOT NULL, device_id int NOT NULL, {metrics}, UNIQUE (device_id, ts))"
    )
    if has_timescale:
        op.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")
        op.execute(samples)
        op.execute("SELECT create_hypertable('samples', 'ts', chunk_time_interval => interval '1 day')")
        op.execute(
            "ALTER TABLE samples SET (timescaledb.compress, timescaledb.compress_segmentby = 'device_id', "
            "timescaledb.compress_orderby = 'ts')"
        )
        op.execute("SELECT add_compression_policy('samples', interval '1 hour')")
        op.execute("SELECT add_retention_policy('samples', interval '30 days')")
    else:
        op.execute(f"{samples} PARTITION BY RANGE (ts)")
        op.execute("CREATE TABLE samples_default PARTITION OF samples DEFAULT")
    op.execute("CREATE INDEX samples_ts ON samples (ts)")
    for statement in TABLES.split(";"):
        if statement.strip():
            op.execute(statement)

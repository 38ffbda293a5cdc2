"""Every metric of the catalogue, rollups, energy, links and processes.

`samples_1m` and `samples_1h` are continuous aggregates where timescaledb is installed, else tables
that the recorder keeps; `nodes_1m` and `energy` are kept by the recorder on both.
"""

from __future__ import annotations

from alembic import op
from sqlalchemy import text

revision = "0002"
down_revision = "0001"

ADDED = """
    sm_util_pct sm_occupancy_pct tensor_util_pct dram_util_pct engine_util_pct memory_free_bytes
    memory_reserved_bytes bar1_used_bytes power_instant_w power_module_w power_memory_w temp_margin_c fan_rpm
    clock_graphics_mhz clock_video_mhz pstate throttle_power_s throttle_thermal_s throttle_sync_boost_s
    throttle_board_s throttle_low_util_s throttle_reliability_s throttle_sw_thermal_s throttle_hw_thermal_s
    throttle_power_brake_s recovery_action ecc_sbe_total ecc_dbe_total remapped_rows_corrected retired_pages_sbe
    retired_pages_dbe retired_pages_pending pcie_replay_rollovers pcie_correctable_errors pcie_naks_received
    pcie_receiver_errors pcie_bad_tlp pcie_naks_sent pcie_bad_dllp pcie_non_fatal_errors pcie_fatal_errors
    pcie_unsupported_requests pcie_lcrc_errors pcie_lane_errors pcie_tx_bytes pcie_rx_bytes pcie_gen pcie_width
    nvlink_active nvlink_tx_bytes nvlink_rx_bytes nvlink_crc_flit_errors nvlink_crc_data_errors
    nvlink_replay_errors nvlink_recovery_errors read_time_s read_errors
""".split()  # noqa: SIM905  a list of names reads better so

# Of a gauge the spread within a bucket tells something; of a counter, a flag or a code the last and the highest do.
SPREAD = """
    gpu_util_pct mem_util_pct encoder_util_pct decoder_util_pct memory_used_bytes memory_total_bytes power_w
    power_cap_w power_enforced_w temp_c temp_mem_c fan_pct clock_sm_mhz clock_mem_mhz processes sm_util_pct
    sm_occupancy_pct tensor_util_pct dram_util_pct engine_util_pct memory_free_bytes memory_reserved_bytes
    power_instant_w power_module_w power_memory_w temp_margin_c fan_rpm clock_graphics_mhz clock_video_mhz pstate
    read_time_s
""".split()  # noqa: SIM905  a list of names reads better so
LATEST = """
    energy_j clock_event_reasons pcie_replays ecc_sbe ecc_dbe remapped_rows row_remap_pending row_remap_failure
    bar1_used_bytes throttle_power_s throttle_thermal_s throttle_sync_boost_s throttle_board_s throttle_low_util_s
    throttle_reliability_s throttle_sw_thermal_s throttle_hw_thermal_s throttle_power_brake_s recovery_action
    ecc_sbe_total ecc_dbe_total remapped_rows_corrected retired_pages_sbe retired_pages_dbe retired_pages_pending
    pcie_replay_rollovers pcie_correctable_errors pcie_naks_received pcie_receiver_errors pcie_bad_tlp
    pcie_naks_sent pcie_bad_dllp pcie_non_fatal_errors pcie_fatal_errors pcie_unsupported_requests pcie_lcrc_errors
    pcie_lane_errors pcie_tx_bytes pcie_rx_bytes pcie_gen pcie_width nvlink_active nvlink_tx_bytes nvlink_rx_bytes
    nvlink_crc_flit_errors nvlink_crc_data_errors nvlink_replay_errors nvlink_recovery_errors read_errors
""".split()  # noqa: SIM905  a list of names reads better so

TABLES = """
CREATE TABLE rollup_marks (
  kind text NOT NULL, ts timestamptz NOT NULL, marks bigint NOT NULL DEFAULT 1, taken_until timestamptz,
  PRIMARY KEY (kind, ts)
);
CREATE TABLE metrics_seen (metric text PRIMARY KEY);
CREATE TABLE nodes_1m (
  ts timestamptz NOT NULL, node text NOT NULL, devices int NOT NULL, power_w real, power_cap_w real,
  gpu_util_pct real, gpu_util_max_pct real, memory_used_bytes double precision, memory_total_bytes double precision,
  temp_max_c real, throttled int NOT NULL, PRIMARY KEY (ts, node)
);
CREATE TABLE energy (
  device_id int NOT NULL, ts timestamptz NOT NULL, energy_j double precision NOT NULL, source text NOT NULL,
  PRIMARY KEY (device_id, ts)
);
CREATE INDEX energy_ts ON energy (ts);
CREATE TABLE nvlinks (
  node text NOT NULL, device text NOT NULL, link int NOT NULL, active boolean NOT NULL, speed_mbps real,
  remote text NOT NULL DEFAULT '', errors bigint NOT NULL DEFAULT 0, changed_at timestamptz NOT NULL,
  PRIMARY KEY (node, device, link)
);
CREATE TABLE processes (
  node text NOT NULL, device text NOT NULL, pid bigint NOT NULL, started_at timestamptz NOT NULL, name text NOT NULL,
  username text NOT NULL, container text NOT NULL, memory_bytes bigint, last_seen timestamptz NOT NULL,
  PRIMARY KEY (node, device, pid, started_at)
);
CREATE INDEX processes_seen ON processes (last_seen);
CREATE TABLE factors (name text PRIMARY KEY, value double precision NOT NULL);
CREATE TABLE pipeline (
  ts timestamptz NOT NULL, recorder text NOT NULL, samples_per_s real NOT NULL, backlog bigint NOT NULL, age_s real,
  duplicates_per_s real NOT NULL, errors_per_s real NOT NULL, PRIMARY KEY (ts, recorder)
);
CREATE INDEX events_ts ON events (ts);
CREATE INDEX events_device ON events (node, device, ts);
CREATE INDEX alerts_opened ON alerts (opened_at);
CREATE INDEX outcomes_ts ON outcomes (ts);
CREATE INDEX commands_ts ON commands (ts);
ALTER TABLE devices ADD COLUMN parent text, ADD COLUMN serial text, ADD COLUMN pci_bus_id text, ADD COLUMN driver text;
ALTER TABLE jobs ADD COLUMN energy_j double precision;
CREATE INDEX jobs_device ON jobs (node, device, finished_at);
DROP TABLE frame_gaps;
CREATE TABLE frame_runs (
  node text NOT NULL, epoch_us bigint NOT NULL, frames bigint NOT NULL, lowest bigint NOT NULL, highest bigint NOT NULL,
  last_at timestamptz NOT NULL, PRIMARY KEY (node, epoch_us)
);
CREATE INDEX frame_runs_last ON frame_runs (last_at);
CREATE VIEW frame_gaps AS
  SELECT node, last_at AS ts, highest - lowest + 1 - frames AS missing FROM frame_runs
  WHERE highest - lowest + 1 > frames
"""


def _type(metric: str) -> str:
    return "double precision" if metric.endswith(("_bytes", "_j")) else "real"


def _aggregates(last: str) -> list[tuple[str, str, str]]:
    """Each rollup column as (name, type, expression over raw rows)."""
    columns = []
    for metric in SPREAD:
        for name, expression in (
            ("min", f"min({metric})"),
            ("avg", f"avg({metric})"),
            ("max", f"max({metric})"),
            ("last", last.format(metric)),
        ):
            columns.append((f"{metric}_{name}", _type(metric), expression))
    for metric in LATEST:
        columns.append((f"{metric}_max", _type(metric), f"max({metric})"))
        columns.append((f"{metric}_last", _type(metric), last.format(metric)))
    return columns


def _timescale() -> None:
    op.execute("DROP INDEX IF EXISTS samples_ts_idx")
    columns = ", ".join(
        f"{expression} AS {name}" for name, _, expression in _aggregates("last({0}, ts) FILTER (WHERE {0} IS NOT NULL)")
    )
    real_time = "WITH (timescaledb.continuous, timescaledb.materialized_only = false)"
    op.execute(
        f"CREATE MATERIALIZED VIEW samples_1m {real_time} AS "  # noqa: S608  our names
        f"SELECT device_id, time_bucket('1 minute', ts) AS ts, count(*) AS samples, {columns} FROM samples "
        f"GROUP BY device_id, time_bucket('1 minute', ts) WITH NO DATA"
    )
    again = ["sum(samples) AS samples"]
    for name, _, _ in _aggregates("{}"):
        kind = name.rsplit("_", 1)[1]
        known = f"last({name}, ts) FILTER (WHERE {name} IS NOT NULL) AS {name}"
        weighted = f"sum({name} * samples) / nullif(sum(samples) FILTER (WHERE {name} IS NOT NULL), 0) AS {name}"
        again.append({"last": known, "avg": weighted}.get(kind, f"{kind}({name}) AS {name}"))
    op.execute(
        f"CREATE MATERIALIZED VIEW samples_1h {real_time} AS "  # noqa: S608  our names
        f"SELECT device_id, time_bucket('1 hour', ts) AS ts, {', '.join(again)} FROM samples_1m "
        f"GROUP BY device_id, time_bucket('1 hour', ts) WITH NO DATA"
    )
    for name, start, end, every in (
        ("samples_1m", "3 hours", "1 minute", "5 minutes"),
        ("samples_1h", "1 day", "1 hour", "30 minutes"),
    ):
        op.execute(
            f"SELECT add_continuous_aggregate_policy('{name}', start_offset => interval '{start}', "
            f"end_offset => interval '{end}', schedule_interval => interval '{every}')"
        )
        op.execute(
            f"ALTER MATERIALIZED VIEW {name} SET (timescaledb.compress = true, "
            f"timescaledb.compress_segmentby = 'device_id')"
        )
        op.execute(f"SELECT add_compression_policy('{name}', compress_after => interval '2 days')")
    # The recorder keeps retention on both kinds of database, so that its setting is the only one.
    op.execute("SELECT remove_retention_policy('samples', if_exists => true)")


def _native() -> None:
    columns = ", ".join(f"{name} {kind}" for name, kind, _ in _aggregates("{}"))
    for table in ("samples_1m", "samples_1h"):
        op.execute(
            f"CREATE TABLE {table} (device_id int NOT NULL, ts timestamptz NOT NULL, samples bigint NOT NULL, "
            f"{columns}, PRIMARY KEY (device_id, ts)) PARTITION BY RANGE (ts)"
        )
        op.execute(f"CREATE TABLE {table}_default PARTITION OF {table} DEFAULT")
        op.execute(f"CREATE INDEX {table}_ts ON {table} (ts)")


def upgrade() -> None:
    for metric in ADDED:
        op.execute(f"ALTER TABLE samples ADD COLUMN {metric} {_type(metric)}")
    # Rows arrive in order of time, where a BRIN index costs next to nothing.
    op.execute("DROP INDEX samples_ts")
    op.execute("CREATE INDEX samples_ts ON samples USING brin (ts) WITH (autosummarize = on)")
    has_timescale = op.get_bind().execute(text("SELECT count(*) FROM pg_extension WHERE extname = 'timescaledb'"))
    if has_timescale.scalar():
        _timescale()
    else:
        _native()
    for statement in TABLES.split(";"):
        if statement.strip():
            op.execute(statement)

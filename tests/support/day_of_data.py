"""A day of a fleet's telemetry in the database, made by the server itself: no stream, no recorder."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import asyncpg

from accelerator_autopilot.telemetry.recorder.adapters.partitions import Partitions
from accelerator_autopilot.telemetry.recorder.adapters.rollups import Rollups

KEPT = {"samples": 30, "samples_1m": 180, "samples_1h": 1825}
DEVICES_A_NODE = 8
# Values that move with device and time, so that averages, maxima and counters have something to tell.
VALUES: dict[str, str] = {
    "gpu_util_pct": "50 + 40 * sin({t} / 3600.0 + {d})",
    "mem_util_pct": "30 + 20 * sin({t} / 3600.0 + {d})",
    "memory_used_bytes": "4e10 + 1e10 * sin({t} / 1800.0)",
    "memory_total_bytes": "8e10",
    "power_w": "300 + 150 * sin({t} / 3600.0 + {d})",
    "energy_j": "({t}::bigint * 300) % 4000000",
    "power_cap_w": "700",
    "power_enforced_w": "700",
    "temp_c": "60 + 15 * sin({t} / 3600.0 + {d})",
    "temp_mem_c": "70 + 15 * sin({t} / 3600.0 + {d})",
    "clock_sm_mhz": "1500 + 300 * sin({t} / 900.0)",
    "clock_mem_mhz": "2600",
    "clock_event_reasons": "CASE WHEN {d} % 50 = 0 THEN 64 ELSE 0 END",
    "fan_pct": "50",
    "ecc_sbe": "{d} % 7",
    "ecc_dbe": "0",
    "pcie_replays": "{d} % 3",
    "remapped_rows": "{d} % 2",
    "row_remap_failure": "0",
    "read_time_s": "0.004",
}


async def fill_day(pool: asyncpg.Pool[Any], now: datetime, devices: int, *, ticks_s: int = 600) -> None:
    """Minutes and hours of a day, and single ticks of its last `ticks_s` seconds."""
    await Partitions(pool, hours=24, retention_days=KEPT).keep(now - timedelta(days=1))
    await Partitions(pool, hours=24, retention_days=KEPT).keep(now)
    await pool.execute(
        "INSERT INTO devices (node, device, model, vendor, source, simulated) "
        "SELECT 'node-' || (i - 1) / $2, 'GPU-' || i, CASE WHEN i % 2 = 0 THEN 'H100' ELSE 'A100' END, "
        "'nvidia', 'nvml', false FROM generate_series(1, $1) i",
        devices,
        DEVICES_A_NODE,
    )
    await pool.execute("INSERT INTO metrics_seen SELECT unnest($1::text[])", list(VALUES))
    minute = now.replace(second=0, microsecond=0)
    day = minute - timedelta(days=1)
    await _ticks(pool, day, minute - timedelta(seconds=ticks_s), "1 minute")
    await _ticks(pool, minute - timedelta(seconds=ticks_s), minute, "1 second")
    rollups = Rollups(pool)
    await rollups.turn()
    if await pool.fetchval("SELECT relkind = 'p' FROM pg_class WHERE relname = 'samples'"):
        await _native_rollups(pool, day, minute)
    else:
        for view in ("samples_1m", "samples_1h"):
            await pool.execute(f"CALL refresh_continuous_aggregate('{view}', NULL, NULL)", timeout=600)
    await _nodes(pool, day, minute)
    await pool.execute(
        "INSERT INTO rollup_marks (kind, ts) SELECT '1h', generate_series(date_trunc('hour', $1::timestamptz), "
        "$2::timestamptz, '1 hour')",
        day,
        now,
    )
    rollups = Rollups(pool)
    while await rollups.turn():
        rollups = Rollups(pool)
    await _records(pool, now)
    await pool.execute("VACUUM ANALYZE")


async def fill_before(pool: asyncpg.Pool[Any], now: datetime, days: int) -> None:
    """The days before the one that `fill_day` made: a row a minute, with minutes, hours and nodes."""
    minute = now.replace(second=0, microsecond=0)
    native = await pool.fetchval("SELECT relkind = 'p' FROM pg_class WHERE relname = 'samples'")
    for day in range(2, days + 1):
        begin, end = minute - timedelta(days=day), minute - timedelta(days=day - 1)
        await _ticks(pool, begin, end, "1 minute")
        if native:
            await _native_rollups(pool, begin, end)
        else:
            for view in ("samples_1m", "samples_1h"):
                await pool.execute(f"CALL refresh_continuous_aggregate('{view}', NULL, NULL)", timeout=600)
        await _nodes(pool, begin, end)
        await pool.execute(
            "INSERT INTO rollup_marks (kind, ts) SELECT '1h', generate_series(date_trunc('hour', $1::timestamptz), "
            "$2::timestamptz - interval '1 hour', '1 hour') ON CONFLICT DO NOTHING",
            begin,
            end,
        )
        await pool.execute("DELETE FROM rollup_marks WHERE kind = '1m'")
        while await Rollups(pool).turn():
            pass


async def _ticks(pool: asyncpg.Pool[Any], begin: datetime, end: datetime, step: str) -> None:
    columns = ", ".join(VALUES)
    values = ", ".join(v.format(t="extract(epoch FROM ts)", d="device_id") for v in VALUES.values())
    await pool.execute(
        f"INSERT INTO samples (ts, device_id, {columns}) SELECT ts, device_id, {values} FROM "
        f"generate_series($1::timestamptz, $2::timestamptz - interval '1 second', interval '{step}') ts, devices",
        begin,
        end,
        timeout=600,
    )


async def _native_rollups(pool: asyncpg.Pool[Any], begin: datetime, end: datetime) -> None:
    """All minutes at once; the recorder makes them one by one."""
    columns = {
        row["column_name"]
        for row in await pool.fetch(
            "SELECT column_name FROM information_schema.columns WHERE table_name = 'samples_1m'"
        )
    }
    pairs = [
        (f"{metric}_{kind}", f"{'max' if kind == 'last' else kind}({metric})")
        for metric in VALUES
        for kind in ("min", "avg", "max", "last")
        if f"{metric}_{kind}" in columns
    ]
    names, values = (", ".join(part) for part in zip(*pairs, strict=True))
    await pool.execute(
        f"INSERT INTO samples_1m (device_id, ts, samples, {names}) "
        f"SELECT device_id, date_trunc('minute', ts), count(*), {values} "
        f"FROM samples WHERE ts >= $1 AND ts < $2 GROUP BY 1, 2 ON CONFLICT DO NOTHING",
        begin,
        end,
        timeout=600,
    )


async def _nodes(pool: asyncpg.Pool[Any], begin: datetime, end: datetime) -> None:
    await pool.execute(
        "INSERT INTO nodes_1m SELECT s.ts, d.node, count(*), sum(power_w_avg), sum(power_enforced_w_last), "
        "avg(gpu_util_pct_avg), max(gpu_util_pct_max), sum(memory_used_bytes_avg), sum(memory_total_bytes_last), "
        "max(temp_c_max), 0 FROM samples_1m s JOIN devices d USING (device_id) WHERE s.ts >= $1 AND s.ts < $2 "
        "GROUP BY 1, 2 ON CONFLICT DO NOTHING",
        begin,
        end,
        timeout=600,
    )


RECORDS = """
INSERT INTO events SELECT 'e' || i, $1::timestamptz - i * interval '1 minute', 'node-0', 'GPU-1',
  (ARRAY['xid','ecc','lost'])[1 + i % 3], 31 + i % 3, 'm', false FROM generate_series(1, 600) i;
INSERT INTO alerts SELECT 'a' || i, 'node-0', 'GPU-1', 'thermal', 'critical', 'opened', 's',
  $1::timestamptz - i * interval '3 minutes', $1::timestamptz, NULL, '[]', false FROM generate_series(1, 200) i;
INSERT INTO jobs SELECT 'j' || i, (ARRAY['embed','summarize'])[1 + i % 2], 'succeeded', 'node-0', 'w', 'GPU-1', 1,
  $1::timestamptz - i * interval '10 seconds', $1::timestamptz - i * interval '10 seconds',
  $1::timestamptz - i * interval '9 seconds', NULL, 300 FROM generate_series(1, 2000) i;
INSERT INTO commands SELECT 'c' || i, $1::timestamptz - i * interval '5 minutes', 'power', 'node-0/GPU-1', 'scheduler',
  'r', $1::timestamptz, '{}' FROM generate_series(1, 200) i;
INSERT INTO outcomes SELECT 'o' || i, 'c' || i, $1::timestamptz - i * interval '5 minutes', 'power', 'node-0/GPU-1',
  'applied', '', 150, 150, 150 FROM generate_series(1, 200) i;
INSERT INTO processes SELECT 'node-0', 'GPU-1', i, $1::timestamptz - interval '1 hour', 'python', 'ada', '', 1,
  $1::timestamptz - interval '1 second' FROM generate_series(1, 20) i;
INSERT INTO nvlinks SELECT 'node-0', 'GPU-1', i, true, 25000, '', 0, $1::timestamptz FROM generate_series(0, 17) i;
INSERT INTO frame_runs SELECT 'node-' || i, 1, 90, 1, 100, $1::timestamptz - i * interval '1 minute',
  '{[1,80],[91,100]}' FROM generate_series(0, 9) i;
INSERT INTO pipeline SELECT $1::timestamptz - i * interval '10 seconds', 'r', 1000, 3, 0.2, 0, 0
  FROM generate_series(1, 900) i
"""


async def _records(pool: asyncpg.Pool[Any], now: datetime) -> None:
    """Events, alerts, commands, jobs and the rest, a few hundred each."""
    for statement in RECORDS.split(";"):
        await pool.execute(statement, now)
    await pool.execute("INSERT INTO factors VALUES ('price_per_kwh', 0.25), ('co2_g_per_kwh', 400)")

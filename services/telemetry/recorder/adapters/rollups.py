"""Minutes, hours, nodes and energy from samples, recomputed for every minute that rows were written to.

Every transaction that writes samples marks the minutes it touched, so late rows, backfills and several recorders need
no special handling. One recorder at a time claims a mark.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import asyncpg

from accelerator_autopilot.contracts.metric_catalogue import METRICS
from accelerator_autopilot.transport.clock import utc_now

GRACE_S = 5.0
MARKS_PER_TURN = 20
JOBS_AT_ONCE = 500
JOBS_OF_AN_HOUR = 20_000
MAX_S = 900.0


def _native_minute(present: set[str]) -> str:
    names, values = ["device_id", "ts", "samples"], ["a.device_id", "$1", "a.samples"]
    aggregates, latest = [], []
    for metric in (m for m in METRICS if m.name in present):
        for rollup in metric.rollups:
            column = f"{metric.name}_{rollup}"
            names.append(column)
            values.append(f"l.{metric.name}" if rollup == "last" and metric.rate == "fast" else f"a.{column}")
            if rollup != "last":
                aggregates.append(f"{rollup}({metric.name}) AS {column}")
            elif metric.rate == "fast":
                latest.append(metric.name)
            else:
                aggregates.append(
                    f"(array_agg({metric.name} ORDER BY ts DESC) "
                    f"FILTER (WHERE {metric.name} IS NOT NULL))[1] AS {column}"
                )
    span = "ts >= $1::timestamptz AND ts < $1::timestamptz + interval '1 minute'"
    return (
        f"INSERT INTO samples_1m ({', '.join(names)}) SELECT {', '.join(values)} FROM "  # noqa: S608  our names
        f"(SELECT {', '.join(['device_id', 'count(*) AS samples', *aggregates])} FROM samples "
        f"WHERE {span} GROUP BY device_id) a "
        f"JOIN (SELECT DISTINCT ON (device_id) {', '.join(['device_id', *latest])} FROM samples WHERE {span} "
        f"ORDER BY device_id, ts DESC) l USING (device_id) {_replacing(names)}"
    )


def _native_hour(present: set[str]) -> str:
    names, values = ["device_id", "ts", "samples"], ["device_id", "$1", "sum(samples)"]
    for metric in (m for m in METRICS if m.name in present):
        for rollup in metric.rollups:
            column = f"{metric.name}_{rollup}"
            names.append(column)
            values.append(_again(rollup, column))
    return (
        f"INSERT INTO samples_1h ({', '.join(names)}) SELECT {', '.join(values)} FROM samples_1m "  # noqa: S608  our names
        f"WHERE ts >= $1::timestamptz AND ts < $1::timestamptz + interval '1 hour' "
        f"GROUP BY device_id {_replacing(names)}"
    )


def _again(rollup: str, column: str) -> str:
    if rollup == "last":
        return f"(array_agg({column} ORDER BY ts DESC) FILTER (WHERE {column} IS NOT NULL))[1]"
    if rollup == "avg":
        return f"sum({column} * samples) / nullif(sum(samples) FILTER (WHERE {column} IS NOT NULL), 0)"
    return f"{rollup}({column})"


def _replacing(names: list[str]) -> str:
    sets = ", ".join(f"{name} = excluded.{name}" for name in names[2:])
    return f"ON CONFLICT (device_id, ts) DO UPDATE SET {sets}"


# MIG instances are parts of their GPU: sums use the GPU.
_NODES = """
INSERT INTO nodes_1m (ts, node, devices, power_w, power_cap_w, gpu_util_pct, gpu_util_max_pct, memory_used_bytes,
  memory_total_bytes, temp_max_c, throttled)
SELECT $1::timestamptz, d.node, count(*), sum(s.power_w) FILTER (WHERE d.parent IS NULL),
  sum(s.cap_w) FILTER (WHERE d.parent IS NULL), avg(s.util), max(s.util_max),
  sum(s.used) FILTER (WHERE d.parent IS NULL), sum(s.total) FILTER (WHERE d.parent IS NULL), max(s.temp),
  count(*) FILTER (WHERE s.reasons & 232 <> 0)
FROM ({devices}) s JOIN devices d USING (device_id) GROUP BY d.node
ON CONFLICT (ts, node) DO UPDATE SET devices = excluded.devices, power_w = excluded.power_w,
  power_cap_w = excluded.power_cap_w, gpu_util_pct = excluded.gpu_util_pct,
  gpu_util_max_pct = excluded.gpu_util_max_pct, memory_used_bytes = excluded.memory_used_bytes,
  memory_total_bytes = excluded.memory_total_bytes, temp_max_c = excluded.temp_max_c, throttled = excluded.throttled
"""
_NODES_FROM_MINUTES = _NODES.format(
    devices="""SELECT device_id, power_w_avg AS power_w, power_enforced_w_last AS cap_w, gpu_util_pct_avg AS util,
  gpu_util_pct_max AS util_max, memory_used_bytes_avg AS used, memory_total_bytes_last AS total, temp_c_max AS temp,
  clock_event_reasons_max::int AS reasons FROM samples_1m WHERE ts = $1::timestamptz"""
)
# A continuous aggregate that is not materialised yet computes all its columns, whichever are requested.
_NODES_FROM_TICKS = _NODES.format(
    devices="""SELECT device_id, avg(power_w) AS power_w, max(power_enforced_w) AS cap_w, avg(gpu_util_pct) AS util,
  max(gpu_util_pct) AS util_max, avg(memory_used_bytes) AS used, max(memory_total_bytes) AS total, max(temp_c) AS temp,
  max(clock_event_reasons)::int AS reasons FROM samples
  WHERE ts >= $1::timestamptz AND ts < $1::timestamptz + interval '1 minute' GROUP BY device_id"""
)

# A counter's growth from one minute's last value to the next: across a reset, what it reached before (the minute's
# maximum) plus what it reached since. Without a counter, mean power times the time covered.
_ENERGY = """
INSERT INTO energy (device_id, ts, energy_j, source)
SELECT device_id, $1::timestamptz,
  CASE WHEN count(energy) > 0 THEN sum(energy) ELSE sum(power_w_avg * 60) END,
  CASE WHEN count(energy) > 0 THEN 'counter' ELSE 'power' END
FROM (
  SELECT device_id, ts, power_w_avg,
    CASE WHEN before IS NULL THEN NULL
         WHEN energy_j_last >= before AND energy_j_max <= energy_j_last THEN energy_j_last - before
         ELSE greatest(energy_j_max - before, 0) + CASE WHEN energy_j_max > energy_j_last OR energy_j_max < before
           THEN energy_j_last ELSE 0 END END AS energy
  FROM (
    SELECT device_id, ts, power_w_avg, energy_j_last, energy_j_max,
      lag(energy_j_last) OVER (PARTITION BY device_id ORDER BY ts) AS before
    FROM samples_1m
    WHERE ts >= $1::timestamptz - interval '10 minutes' AND ts < $1::timestamptz + interval '1 hour'
  ) minutes
  WHERE ts >= $1::timestamptz
) grown
GROUP BY device_id HAVING count(energy) > 0 OR count(power_w_avg) > 0
ON CONFLICT (device_id, ts) DO UPDATE SET energy_j = excluded.energy_j, source = excluded.source
"""

_TAKE = """
UPDATE rollup_marks SET taken_until = now() + interval '15 minutes' WHERE (kind, ts) = (
  SELECT kind, ts FROM rollup_marks WHERE kind = $1 AND ts < now() - $2::interval
    AND (taken_until IS NULL OR taken_until < now())
  ORDER BY ts DESC LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING ts, marks
"""
_DONE = "DELETE FROM rollup_marks WHERE kind = $1 AND ts = $2 AND marks = $3"
_AGAIN = "UPDATE rollup_marks SET taken_until = NULL WHERE kind = $1 AND ts = $2"

# Devices and power of an hour, from its minutes.
_NODE_HOURS = """
INSERT INTO nodes_1h (ts, node, devices, power_w, power_cap_w, gpu_util_pct, gpu_util_max_pct, memory_used_bytes,
  memory_total_bytes, temp_max_c, throttled)
SELECT $1::timestamptz, node, max(devices), avg(power_w), avg(power_cap_w), avg(gpu_util_pct), max(gpu_util_max_pct),
  avg(memory_used_bytes), max(memory_total_bytes), max(temp_max_c), max(throttled)
FROM nodes_1m WHERE ts >= $1::timestamptz AND ts < $1::timestamptz + interval '1 hour' GROUP BY node
ON CONFLICT (ts, node) DO UPDATE SET devices = excluded.devices, power_w = excluded.power_w,
  power_cap_w = excluded.power_cap_w, gpu_util_pct = excluded.gpu_util_pct,
  gpu_util_max_pct = excluded.gpu_util_max_pct, memory_used_bytes = excluded.memory_used_bytes,
  memory_total_bytes = excluded.memory_total_bytes, temp_max_c = excluded.temp_max_c, throttled = excluded.throttled
"""

# The energy of a job: mean power of its device while it ran, shared by overlap with concurrent jobs.
_JOBS = """
UPDATE jobs SET energy_j = e.energy_j FROM (
  SELECT j.project, j.id, p.power_w * extract(epoch FROM j.finished_at - j.started_at) ^ 2
    / nullif((SELECT sum(extract(epoch FROM least(k.finished_at, j.finished_at) - greatest(k.started_at, j.started_at)))
        FROM jobs k WHERE k.node = j.node AND k.device = j.device AND k.started_at < j.finished_at
          AND k.finished_at > j.started_at AND k.finished_at < j.finished_at + interval '1 hour'), 0) AS energy_j
  FROM jobs j JOIN devices d ON d.node = j.node AND d.device = j.device
  CROSS JOIN LATERAL (
    SELECT avg(power_w) AS power_w FROM samples s WHERE s.device_id = d.device_id
      AND s.ts BETWEEN j.started_at - interval '1 second' AND j.finished_at + interval '1 second') p
  WHERE j.energy_j IS NULL AND j.started_at IS NOT NULL AND p.power_w IS NOT NULL
    AND {which}
  LIMIT $1
) e WHERE e.project = jobs.project AND e.id = jobs.id
"""
# By recording time, however long ago the job ended: a recorder may have been away for hours.
_LATE_JOBS = _JOBS.format(
    which="j.recorded_at > now() - interval '10 minutes' AND j.finished_at < now() - interval '5 seconds'"
)
# Jobs of an hour that received late samples.
_HOUR_JOBS = _JOBS.format(
    which="j.finished_at >= $2::timestamptz AND j.finished_at < $2::timestamptz + interval '1 hour' "
    "AND j.finished_at < now() - interval '5 seconds'"
)


class Rollups:
    """One recorder's share of the rollups."""

    longest_s = MAX_S

    def __init__(self, pool: asyncpg.Pool[Any]) -> None:
        self._pool = pool
        self._native = False
        self._minutes, self._hours = "", ""
        self._hours_not_before = 0.0

    async def turn(self, busy: Callable[[], bool] = lambda: False) -> int:
        """Roll up what is marked, newest first, and hours when they are due, until `busy`; returns how many."""
        self._native = await self._pool.fetchval("SELECT relkind = 'p' FROM pg_class WHERE relname = 'samples'")
        present = {row["metric"] for row in await self._pool.fetch("SELECT metric FROM metrics_seen")}
        self._minutes, self._hours = _native_minute(present), _native_hour(present)
        done = 0
        while done < MARKS_PER_TURN and not busy() and await self._one("1m", 60 + GRACE_S):
            done += 1
        if time.monotonic() >= self._hours_not_before:
            started = time.monotonic()
            while done < 2 * MARKS_PER_TURN and not busy() and await self._one("1h", 0):
                done += 1
            # On a large fleet, aggregating an hour takes long: it uses at most a tenth of a recorder's
            # time.
            self._hours_not_before = time.monotonic() + max(30.0, 10 * (time.monotonic() - started))
        return done

    async def jobs(self) -> None:
        """Compute the energy of recently recorded jobs, for at most a second; the rest follows next time."""
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            status = await self._pool.execute(_LATE_JOBS, JOBS_AT_ONCE)
            if int(status.split()[-1]) < JOBS_AT_ONCE:
                return

    async def _one(self, kind: str, age_s: float) -> bool:
        """Claim a mark, roll up, and delete the mark unless rows arrived meanwhile."""
        mark = await self._pool.fetchrow(_TAKE, kind, timedelta(seconds=age_s))
        if mark is None:
            return False
        async with self._pool.acquire() as connection, connection.transaction():
            await (self._minute if kind == "1m" else self._hour)(connection, mark["ts"])
        await self._pool.execute(_DONE, kind, mark["ts"], mark["marks"])
        await self._pool.execute(_AGAIN, kind, mark["ts"])
        return True

    async def _minute(self, connection: Any, minute: datetime) -> None:
        if self._native:
            await connection.execute(self._minutes, minute, timeout=MAX_S)
        nodes = _NODES_FROM_MINUTES if self._native else _NODES_FROM_TICKS
        await connection.execute(nodes, minute, timeout=MAX_S)
        await connection.execute(
            "INSERT INTO rollup_marks (kind, ts) VALUES ('1h', date_trunc('hour', $1::timestamptz, 'UTC')) "
            "ON CONFLICT (kind, ts) DO UPDATE SET marks = rollup_marks.marks + 1",
            minute,
        )

    async def _hour(self, connection: Any, hour: datetime) -> None:
        if self._native:
            await connection.execute(self._hours, hour, timeout=MAX_S)
        await connection.execute(_NODE_HOURS, hour, timeout=MAX_S)
        await connection.execute(_ENERGY, hour, timeout=MAX_S)
        # Jobs of the current hour are handled as they are recorded.
        if hour < utc_now() - timedelta(hours=1, minutes=10):
            await connection.execute(_HOUR_JOBS, JOBS_OF_AN_HOUR, hour, timeout=MAX_S)

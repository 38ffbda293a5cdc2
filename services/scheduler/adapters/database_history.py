"""Read a past time span of the fleet from the database: jobs, per-minute device metrics, and devices.

A day of a busy fleet holds millions of jobs and a hundred million device minutes. They are copied straight into arrays,
up to a limit: the newest jobs, and the minutes of a number of devices.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accelerator_autopilot.runtime.database import database
from accelerator_autopilot.scheduler.adapters.copy_reader import CopiedRows, Wide
from accelerator_autopilot.scheduler.domain.fleet_history import DeviceHistory, FleetHistory, JobHistory, JobTotals
from accelerator_autopilot.scheduler.domain.pool_arrays import Doubles

MAX_JOBS = 1_000_000
MAX_MINUTES = 2_000_000
HOUR = timedelta(hours=1)
# An hour's energy is aggregated some minutes after its end.
AGGREGATED_AFTER = timedelta(minutes=15)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Workers are named after their pool, plus six letters.
POOL = "regexp_replace(worker, '-[^-]*$', '')"
WORKER_HASH = "hashtextextended(concat_ws(chr(31), worker, kind, node, device), 0)"
JOBS_IN_ALL = "SELECT count(*) FROM jobs WHERE submitted_at >= $1 AND submitted_at < $2 AND started_at IS NOT NULL"
JOBS = f"""
SELECT {WORKER_HASH}, submitted_at, started_at, finished_at, coalesce(run_s, 'NaN')::float8,
  coalesce(batch_size, 1)::float8, coalesce(energy_j, 'NaN')::float8
FROM jobs WHERE submitted_at >= $1 AND submitted_at < $2 AND started_at IS NOT NULL
ORDER BY submitted_at DESC LIMIT $3
"""  # noqa: S608  no input
JOB_COLUMNS: dict[str, Wide] = {
    "who": "int", "submitted": "time", "started": "time", "finished": "time", "run_s": "float", "batch": "float",
    "energy_j": "float",
}  # fmt: skip
# One job of each group, looked up by its time: reading the names of a million jobs would take longer than all their
# numbers.
NAMES = f"""
SELECT DISTINCT {WORKER_HASH} AS who, {POOL} AS pool, kind, node, device FROM jobs WHERE submitted_at = ANY($1)
"""  # noqa: S608  no input
BLOCK = f"""
SELECT count(*) AS jobs, avg(energy_j) AS energy_j,
  count(*) FILTER (WHERE started_at - submitted_at > coalesce(b.slack, $3::interval)) AS late
FROM jobs LEFT JOIN unnest($4::text[], $5::interval[]) AS b(pool, slack) ON b.pool = {POOL}
WHERE submitted_at >= $1 AND submitted_at < $2 AND started_at IS NOT NULL
"""  # noqa: S608  no input
ENERGY_OF_HOURS = "SELECT ts, sum(energy_j) AS energy_j FROM energy WHERE ts >= $1 AND ts < $2 GROUP BY ts"
ENERGY_OF_MINUTES = """
SELECT date_trunc('hour', ts, 'UTC') AS ts, sum(power_w_avg * 60.0) AS energy_j
FROM samples_1m WHERE ts >= $1 AND ts < $2 GROUP BY 1
"""
DEVICES = """
SELECT device_id, node, device, model, simulated, memory_bytes, power_min_w, power_default_w FROM devices
"""
LOADS = """
SELECT target, (body -> 'evidence' ->> 'load_time_s')::double precision AS load_s
FROM commands WHERE kind = 'scale' AND issuer = 'scheduler' AND ts >= $1 AND ts < $2 ORDER BY ts
"""
MINUTES = """
SELECT device_id::int8, ts, coalesce(gpu_util_pct_avg, 'NaN')::float8, coalesce(power_w_avg, 'NaN')::float8,
  coalesce(power_cap_w_avg, 'NaN')::float8, coalesce(memory_used_bytes_max, 'NaN')::float8,
  coalesce(temp_c_max, 'NaN')::float8
FROM samples_1m WHERE ts >= $1 AND ts < $2 AND device_id = ANY($3)
"""
MINUTE_COLUMNS: dict[str, Wide] = {
    "device_id": "int", "at": "time", "util_pct": "float", "power_w": "float", "cap_w": "float",
    "memory_bytes": "float", "temp_c": "float",
}  # fmt: skip


async def read_past(
    dsn: str, since: datetime, until: datetime, *, most_jobs: int = MAX_JOBS, most_minutes: int = MAX_MINUTES
) -> FleetHistory:
    """Read the span: the newest jobs and as many devices as the limits allow. Raises UnavailableError."""
    since, until = since.astimezone(UTC), until.astimezone(UTC)
    async with (
        database(dsn) as pool,
        pool.acquire() as connection,
        # One snapshot: concurrent changes are in all of the reads or in none.
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        copied = await _copied(connection, JOBS, (since, until, most_jobs + 1), JOB_COLUMNS)
        in_all, from_s = len(copied["who"]), 0.0
        if in_all > most_jobs:
            in_all = await connection.fetchval(JOBS_IN_ALL, since, until) or 0
            # Jobs that were submitted at the same moment are read together or not at all.
            oldest = copied["submitted"][-1]
            copied = {name: column[copied["submitted"] > oldest] for name, column in copied.items()}
            from_s = float(oldest + 1 - _us(since)) / 1e6
        jobs = _jobs(copied, await _names(connection, copied), since, in_all, from_s)
        rows = await connection.fetch(DEVICES)
        held = max(1, int(most_minutes / max(1.0, (until - since).total_seconds() / 60)))
        used = set(jobs.device)
        chosen = sorted(rows, key=lambda r: ((r["node"], r["device"]) not in used, r["device_id"]))[:held]
        minutes = await _copied(connection, MINUTES, (since, until, [r["device_id"] for r in chosen]), MINUTE_COLUMNS)
        energy_j = await _energy_by_hour(connection, since, until)
        loads = await connection.fetch(LOADS, since, until)
        factors = await connection.fetch("SELECT name, value FROM factors")
    factor_values = {r["name"]: float(r["value"]) for r in factors}
    return FleetHistory(
        since, until, jobs, _devices(chosen, minutes, since), _loads(loads), factor_values, energy_j, len(rows)
    )


async def read_block(
    dsn: str, since: datetime, until: datetime, slack_s: Mapping[str, float], default_slack_s: float
) -> JobTotals:
    """Aggregate jobs that were submitted in the span, in the database. Raises UnavailableError."""
    async with database(dsn) as pool:
        slack = [timedelta(seconds=seconds) for seconds in slack_s.values()]
        default = timedelta(seconds=default_slack_s)
        rows = await pool.fetch(BLOCK, since, until, default, list(slack_s), slack)
    row = rows[0]
    return JobTotals(row["jobs"], row["late"], None if row["energy_j"] is None else float(row["energy_j"]))


@dataclass(frozen=True)
class DatabaseHistory:
    """Reads history from the database at a DSN; every read opens its own connection."""

    dsn: str

    async def read_past(self, since: datetime, until: datetime) -> FleetHistory:
        """Read a past time span of the fleet. Raises UnavailableError."""
        return await read_past(self.dsn, since, until)

    async def read_block(
        self, since: datetime, until: datetime, slack_s: Mapping[str, float], default_slack_s: float
    ) -> JobTotals:
        """Aggregate jobs that were submitted in the span. Raises UnavailableError."""
        return await read_block(self.dsn, since, until, slack_s, default_slack_s)


async def _copied(
    connection: Any, query: str, arguments: tuple[Any, ...], columns: Mapping[str, Wide]
) -> dict[str, NDArray[Any]]:
    rows = CopiedRows(columns)
    await connection.copy_from_query(query, *arguments, output=rows.take, format="binary")
    return rows.made()


async def _names(connection: Any, copied: Mapping[str, NDArray[Any]]) -> dict[int, tuple[str, str, tuple[str, str]]]:
    """Return the pools, kinds and devices of the workers that ran any of the jobs."""
    _, each = np.unique(copied["who"], return_index=True)
    at = [EPOCH + timedelta(microseconds=moment) for moment in copied["submitted"][each].tolist()]
    return {r["who"]: (r["pool"], r["kind"], (r["node"], r["device"])) for r in await connection.fetch(NAMES, at)}


async def _energy_by_hour(connection: Any, since: datetime, until: datetime) -> Doubles:
    """Return the joules of all devices in each clock hour that overlaps the span."""
    first = since.replace(minute=0, second=0, microsecond=0)
    hours = [first + HOUR * n for n in range(int((until - first) / HOUR) + 1)]
    known = {
        r["ts"]: r["energy_j"] for r in await connection.fetch(ENERGY_OF_HOURS, since, until - HOUR - AGGREGATED_AFTER)
    }
    missing = [hour for hour in hours if hour not in known]
    # Hours that are only partly in the span, or not aggregated yet: all their rows in one query.
    ends = [n for n, (one, other) in enumerate(pairwise(missing)) if other - one > HOUR]
    for start, end in pairwise([0, *(n + 1 for n in ends), len(missing)]):
        if start < end:
            span = max(since, missing[start]), min(until, missing[end - 1] + HOUR)
            known |= {r["ts"]: r["energy_j"] for r in await connection.fetch(ENERGY_OF_MINUTES, *span)}
    return np.array([known.get(hour) or 0.0 for hour in hours])


def _us(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(microseconds=1)


def _jobs(
    copied: Mapping[str, NDArray[Any]],
    names: Mapping[int, tuple[str, str, tuple[str, str]]],
    since: datetime,
    in_all: int,
    from_s: float,
) -> JobHistory:
    """Return the jobs in order of submission."""
    columns = {name: column[::-1] for name, column in copied.items()}
    worker_ids, place = np.unique(columns["who"], return_inverse=True)
    each, places = [names[who] for who in worker_ids.tolist()], place.tolist()
    submitted, started, finished = ((columns[n] - _us(since)) / 1e6 for n in ("submitted", "started", "finished"))
    run_s = np.where(np.isnan(columns["run_s"]), np.maximum(finished - started, 0.0), columns["run_s"])
    batch = np.maximum(columns["batch"], 1.0)
    return JobHistory(
        pool=[each[n][0] for n in places],
        kind=[each[n][1] for n in places],
        device=[each[n][2] for n in places],
        submitted_s=submitted,
        started_s=started,
        finished_s=finished,
        work_s=np.maximum(run_s, 1e-3) / batch,
        batch_size=batch.astype(np.int64),
        energy_j=columns["energy_j"].copy(),
        in_all=in_all,
        from_s=from_s,
    )


def _loads(rows: list[Any]) -> dict[str, Doubles]:
    of: defaultdict[str, list[float]] = defaultdict(list)
    for row in rows:
        if row["load_s"] is not None and row["load_s"] > 0:
            of[row["target"]].append(row["load_s"])
    return {pool: np.array(its) for pool, its in of.items()}


def _devices(rows: Sequence[Any], minutes: Mapping[str, NDArray[Any]], since: datetime) -> list[DeviceHistory]:
    order = np.lexsort((minutes["at"], minutes["device_id"]))
    of = minutes["device_id"][order]
    at_s = (minutes["at"][order] - _us(since)) / 1e6
    values = {name: minutes[name][order] for name in ("util_pct", "power_w", "cap_w", "memory_bytes", "temp_c")}
    found = []
    for row in rows:
        first, last = np.searchsorted(of, [row["device_id"], row["device_id"] + 1])
        if first == last:
            continue
        its = {name: column[first:last].copy() for name, column in values.items()}
        found.append(
            DeviceHistory(
                node=row["node"],
                device=row["device"],
                model=row["model"],
                simulated=row["simulated"],
                memory_bytes=float(row["memory_bytes"] or np.nan),
                power_min_w=row["power_min_w"],
                power_default_w=row["power_default_w"],
                at_s=at_s[first:last].copy(),
                util_pct=its["util_pct"],
                power_w=its["power_w"],
                cap_w=its["cap_w"],
                memory_used_bytes=its["memory_bytes"],
                temp_c=its["temp_c"],
            )
        )
    return found

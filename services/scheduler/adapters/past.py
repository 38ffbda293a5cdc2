"""A past span of the fleet from the database: jobs, devices by the minute, and who they were.

A day of a busy fleet holds millions of jobs and a hundred million device minutes. They come in chunks, straight into
arrays, and no more of them than a bounded number: the newest jobs, and the minutes of so many devices.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.scheduler.domain.pool import Doubles
from shared.database import database

CHUNK = 20_000
MOST_JOBS = 1_000_000
MOST_MINUTES = 2_000_000
# Workers are called by their pool and six letters.
POOL = "regexp_replace(worker, '-[^-]*$', '')"
FIRST_JOB = """
SELECT submitted_at FROM jobs WHERE submitted_at >= $1 AND submitted_at < $2 AND started_at IS NOT NULL
ORDER BY submitted_at DESC OFFSET $3 LIMIT 1
"""
JOBS_IN_ALL = "SELECT count(*) FROM jobs WHERE submitted_at >= $1 AND submitted_at < $2 AND started_at IS NOT NULL"
JOBS = f"""
SELECT {POOL} AS pool, kind, node, device, submitted_at, started_at, finished_at, run_s, batch_size, energy_j
FROM jobs WHERE submitted_at >= $1 AND submitted_at < $2 AND started_at IS NOT NULL ORDER BY submitted_at
"""  # noqa: S608  no input
BLOCK = f"""
SELECT count(*) AS jobs, avg(energy_j) AS energy_j,
  count(*) FILTER (WHERE started_at - submitted_at > coalesce(b.slack, $3::interval)) AS late
FROM jobs LEFT JOIN unnest($4::text[], $5::interval[]) AS b(pool, slack) ON b.pool = {POOL}
WHERE submitted_at >= $1 AND submitted_at < $2 AND started_at IS NOT NULL
"""  # noqa: S608  no input
ENERGY_BY_HOUR = """
SELECT floor(extract(epoch FROM ts - $1::timestamptz) / 3600)::int AS hour, sum(power_w_avg * 60.0) AS energy_j
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
SELECT device_id, extract(epoch FROM ts)::double precision AS at_s, gpu_util_pct_avg AS util_pct,
  power_w_avg AS power_w, power_cap_w_avg AS cap_w, memory_used_bytes_max AS memory_bytes, temp_c_max AS temp_c
FROM samples_1m WHERE ts >= $1 AND ts < $2 AND device_id = ANY($3) ORDER BY ts
"""

MINUTE_COLUMNS = ("device_id", "at_s", "util_pct", "power_w", "cap_w", "memory_bytes", "temp_c")


@dataclass(frozen=True)
class PastJobs:
    """[N] in the order of submission; times in seconds since the span began."""

    pool: list[str]
    kind: list[str]
    device: list[tuple[str, str]]
    submitted_s: Doubles
    started_s: Doubles
    finished_s: Doubles
    work_s: Doubles  # of the device, the batch's time shared by its jobs
    batch_size: NDArray[np.int64]
    energy_j: Doubles  # NaN: not known
    in_all: int = 0  # in the span; those here are the newest of them
    from_s: float = 0.0  # when the first of them could have been submitted


@dataclass(frozen=True)
class PastDevice:
    """A device with its minutes, [M] each; NaN where something was not told."""

    node: str
    device: str
    model: str
    simulated: bool
    memory_bytes: float
    power_min_w: float | None
    power_default_w: float | None
    at_s: Doubles
    util_pct: Doubles
    power_w: Doubles
    cap_w: Doubles
    memory_used_bytes: Doubles
    temp_c: Doubles


@dataclass(frozen=True)
class Past:
    """A span of the fleet."""

    since: datetime
    until: datetime
    jobs: PastJobs
    devices: list[PastDevice]
    load_s: dict[str, Doubles]  # load times of each pool, as the scheduler had measured them at each command
    factors: dict[str, float]  # price_per_kwh, co2_g_per_kwh: as the recorder was told
    energy_by_hour_j: Doubles = field(default_factory=lambda: np.zeros(0))  # of all devices
    devices_in_all: int = 0  # with their minutes here are no more than can be held

    @property
    def length_s(self) -> float:
        """Seconds."""
        return (self.until - self.since).total_seconds()


async def read_past(
    dsn: str, since: datetime, until: datetime, *, most_jobs: int = MOST_JOBS, most_minutes: int = MOST_MINUTES
) -> Past:
    """The span, of its jobs the newest and of its devices as many as the limits allow. Raises UnavailableError."""
    async with database(dsn) as pool:
        in_all = await pool.fetchval(JOBS_IN_ALL, since, until) or 0
        first = await pool.fetchval(FIRST_JOB, since, until, most_jobs) if in_all > most_jobs else None
        jobs = _Jobs(since)
        # Two that were submitted in the same moment are read together or not at all.
        jobs_from = first + timedelta(microseconds=1) if first is not None else since
        await _in_chunks(pool, JOBS, (jobs_from, until), jobs.add)
        rows = await pool.fetch(DEVICES)
        held = max(1, int(most_minutes / max(1.0, (until - since).total_seconds() / 60)))
        used = set(jobs.devices)
        chosen = sorted(rows, key=lambda r: ((r["node"], r["device"]) not in used, r["device_id"]))[:held]
        minutes = _Columns(len(MINUTE_COLUMNS))
        await _in_chunks(pool, MINUTES, (since, until, [r["device_id"] for r in chosen]), minutes.add)
        hours = await pool.fetch(ENERGY_BY_HOUR, since, until)
        loads = await pool.fetch(LOADS, since, until)
        factors = await pool.fetch("SELECT name, value FROM factors")
    told = {r["name"]: float(r["value"]) for r in factors}
    energy_j = np.zeros(int((until - since).total_seconds() // 3600) + 1)
    for row in hours:
        energy_j[row["hour"]] = row["energy_j"] or 0.0
    return Past(
        since,
        until,
        jobs.made(in_all, (jobs_from - since).total_seconds()),
        _devices(chosen, minutes.made(), since),
        _loads(loads),
        told,
        energy_j,
        len(rows),
    )


@dataclass(frozen=True)
class Block:
    """How the jobs of a short span went."""

    jobs: int
    late: int
    energy_j: float | None  # of a job in the mean; None where no job's is known


async def read_block(
    dsn: str, since: datetime, until: datetime, slack_s: Mapping[str, float], default_slack_s: float
) -> Block:
    """Jobs that were submitted in the span, counted by the database. Raises UnavailableError."""
    async with database(dsn) as pool:
        slack = [timedelta(seconds=seconds) for seconds in slack_s.values()]
        default = timedelta(seconds=default_slack_s)
        rows = await pool.fetch(BLOCK, since, until, default, list(slack_s), slack)
    row = rows[0]
    return Block(row["jobs"], row["late"], None if row["energy_j"] is None else float(row["energy_j"]))


async def _in_chunks(pool: Any, query: str, arguments: tuple[Any, ...], take: Callable[[Sequence[Any]], None]) -> None:
    async with pool.acquire() as connection, connection.transaction(readonly=True):
        cursor = await connection.cursor(query, *arguments)
        while rows := await cursor.fetch(CHUNK):
            take(rows)


class _Columns:
    """Rows of numbers as they come, kept as arrays; NaN where something was not told."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._chunks: list[Doubles] = []

    def add(self, rows: Sequence[Any]) -> None:
        """Some more."""
        # None becomes NaN.
        self._chunks.append(np.array([tuple(row) for row in rows], dtype=float))

    def made(self) -> Doubles:
        """[rows, width]."""
        return np.concatenate(self._chunks) if self._chunks else np.zeros((0, self._width))


class _Jobs:
    """Jobs as they come; a name is kept once, however many jobs bear it."""

    def __init__(self, since: datetime) -> None:
        self._since = since
        self._pool: list[str] = []
        self._kind: list[str] = []
        self._device: list[tuple[str, str]] = []
        self.devices: dict[tuple[str, str], tuple[str, str]] = {}
        self._numbers = _Columns(6)

    def add(self, rows: Sequence[Any]) -> None:
        """Some more."""
        since = self._since
        self._pool += [sys.intern(row["pool"]) for row in rows]
        self._kind += [sys.intern(row["kind"]) for row in rows]
        devices = [(row["node"], row["device"]) for row in rows]
        self._device += [self.devices.setdefault(device, device) for device in devices]
        self._numbers.add(
            [
                (
                    (row["submitted_at"] - since).total_seconds(),
                    (row["started_at"] - since).total_seconds(),
                    (row["finished_at"] - since).total_seconds(),
                    row["run_s"],
                    row["batch_size"] or 1,
                    row["energy_j"],
                )
                for row in rows
            ]
        )

    def made(self, in_all: int, from_s: float) -> PastJobs:
        """All of them."""
        submitted, started, finished, run_s, batch, energy_j = self._numbers.made().T.copy()
        run_s = np.where(np.isnan(run_s), np.maximum(finished - started, 0.0), run_s)
        return PastJobs(
            pool=self._pool,
            kind=self._kind,
            device=self._device,
            submitted_s=submitted,
            started_s=started,
            finished_s=finished,
            work_s=np.maximum(run_s, 1e-3) / batch,
            batch_size=batch.astype(np.int64),
            energy_j=energy_j,
            in_all=in_all,
            from_s=from_s,
        )


def _loads(rows: list[Any]) -> dict[str, Doubles]:
    of: defaultdict[str, list[float]] = defaultdict(list)
    for row in rows:
        if row["load_s"] is not None and row["load_s"] > 0:
            of[row["target"]].append(row["load_s"])
    return {pool: np.array(its) for pool, its in of.items()}


def _devices(rows: Sequence[Any], minutes: Doubles, since: datetime) -> list[PastDevice]:
    order = np.argsort(minutes[:, 0], kind="stable")
    minutes = minutes[order]
    start_s = since.timestamp()
    found = []
    for row in rows:
        first, last = np.searchsorted(minutes[:, 0], [row["device_id"], row["device_id"] + 1])
        if first == last:
            continue
        at_s, util_pct, power_w, cap_w, memory_bytes, temp_c = minutes[first:last, 1:].T.copy()
        found.append(
            PastDevice(
                node=row["node"],
                device=row["device"],
                model=row["model"],
                simulated=row["simulated"],
                memory_bytes=float(row["memory_bytes"] or np.nan),
                power_min_w=row["power_min_w"],
                power_default_w=row["power_default_w"],
                at_s=at_s - start_s,
                util_pct=util_pct,
                power_w=power_w,
                cap_w=cap_w,
                memory_used_bytes=memory_bytes,
                temp_c=temp_c,
            )
        )
    return found

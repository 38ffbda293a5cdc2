"""A past span of the fleet from the database: jobs, devices by the minute, and who they were."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.scheduler.domain.pool import Doubles
from shared.database import database

JOBS = """
SELECT kind, worker, node, device, submitted_at, started_at, finished_at, run_s, batch_size, energy_j, status
FROM jobs WHERE submitted_at >= $1 AND submitted_at < $2 AND started_at IS NOT NULL ORDER BY submitted_at
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
FROM samples_1m WHERE ts >= $1 AND ts < $2 ORDER BY ts
"""


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

    @property
    def length_s(self) -> float:
        """Seconds."""
        return (self.until - self.since).total_seconds()


async def read_past(dsn: str, since: datetime, until: datetime) -> Past:
    """Everything of the span. Raises UnavailableError."""
    async with database(dsn) as pool:
        jobs = await pool.fetch(JOBS, since, until)
        devices = await pool.fetch(DEVICES)
        minutes = await pool.fetch(MINUTES, since, until)
        loads = await pool.fetch(LOADS, since, until)
        factors = await pool.fetch("SELECT name, value FROM factors")
    told = {r["name"]: float(r["value"]) for r in factors}
    return Past(since, until, _jobs(jobs, since), _devices(devices, minutes, since), _loads(loads), told)


def _jobs(rows: list[Any], since: datetime) -> PastJobs:
    def seconds(name: str) -> Doubles:
        return np.array([(r[name] - since).total_seconds() for r in rows], float)

    batch = np.array([r["batch_size"] or 1 for r in rows], np.int64)
    started, finished = seconds("started_at"), seconds("finished_at")
    run_s = np.array([np.nan if r["run_s"] is None else r["run_s"] for r in rows], float)
    run_s = np.where(np.isnan(run_s), np.maximum(finished - started, 0.0), run_s)
    return PastJobs(
        # Workers are called by their pool and six letters.
        pool=[r["worker"].rsplit("-", 1)[0] for r in rows],
        kind=[r["kind"] for r in rows],
        device=[(r["node"], r["device"]) for r in rows],
        submitted_s=seconds("submitted_at"),
        started_s=started,
        finished_s=finished,
        work_s=np.maximum(run_s, 1e-3) / batch,
        batch_size=batch,
        energy_j=np.array([np.nan if r["energy_j"] is None else r["energy_j"] for r in rows], float),
    )


def _loads(rows: list[Any]) -> dict[str, Doubles]:
    of: defaultdict[str, list[float]] = defaultdict(list)
    for row in rows:
        if row["load_s"] is not None and row["load_s"] > 0:
            of[row["target"]].append(row["load_s"])
    return {pool: np.array(its) for pool, its in of.items()}


def _devices(rows: list[Any], minutes: list[Any], since: datetime) -> list[PastDevice]:
    of: dict[int, list[Any]] = {}
    for minute in minutes:
        of.setdefault(minute["device_id"], []).append(minute)
    start_s = since.timestamp()

    def column(name: str, its: list[Any]) -> Doubles:
        return np.array([np.nan if m[name] is None else m[name] for m in its], float)

    return [
        PastDevice(
            node=r["node"],
            device=r["device"],
            model=r["model"],
            simulated=r["simulated"],
            memory_bytes=float(r["memory_bytes"] or np.nan),
            power_min_w=r["power_min_w"],
            power_default_w=r["power_default_w"],
            at_s=column("at_s", its) - start_s,
            util_pct=column("util_pct", its),
            power_w=column("power_w", its),
            cap_w=column("cap_w", its),
            memory_used_bytes=column("memory_bytes", its),
            temp_c=column("temp_c", its),
        )
        for r in rows
        if (its := of.get(r["device_id"], []))
    ]

"""A past time span of the fleet: its jobs, and per-minute device metrics."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from accelerator_autopilot.scheduler.domain.pool_arrays import Doubles


@dataclass(frozen=True)
class JobHistory:
    """[N] jobs in order of submission; times in seconds since the span began."""

    pool: list[str]
    kind: list[str]
    device: list[tuple[str, str]]
    submitted_s: Doubles
    started_s: Doubles
    finished_s: Doubles
    work_s: Doubles  # device time: the batch's time divided by its jobs
    batch_size: NDArray[np.int64]
    energy_j: Doubles  # NaN: unknown
    in_all: int = 0  # jobs in the span; those here are the newest
    from_s: float = 0.0  # start of the time that those here cover


@dataclass(frozen=True)
class DeviceHistory:
    """A device with its minutes, [M] each; NaN where something was not reported."""

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
class FleetHistory:
    """A span of the fleet."""

    since: datetime
    until: datetime
    jobs: JobHistory
    devices: list[DeviceHistory]
    load_s: dict[str, Doubles]  # load times of each pool, as the scheduler measured them at each command
    factors: dict[str, float]  # price_per_kwh, co2_g_per_kwh: the recorder's settings
    energy_by_hour_j: Doubles = field(default_factory=lambda: np.zeros(0))  # of all devices, by clock hour
    devices_in_all: int = 0  # the minutes of at most as many devices as the limit allows are here

    @property
    def length_s(self) -> float:
        """The length in seconds."""
        return (self.until - self.since).total_seconds()


@dataclass(frozen=True)
class JobTotals:
    """Totals of the jobs in a short span."""

    jobs: int
    late: int
    energy_j: float | None  # mean per job; None where no job's energy is known

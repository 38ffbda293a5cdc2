"""What a past span of the fleet was: its jobs, and its devices by the minute."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from accelerator_autopilot.scheduler.domain.pool_arrays import Doubles


@dataclass(frozen=True)
class JobHistory:
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
class DeviceHistory:
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
class FleetHistory:
    """A span of the fleet."""

    since: datetime
    until: datetime
    jobs: JobHistory
    devices: list[DeviceHistory]
    load_s: dict[str, Doubles]  # load times of each pool, as the scheduler had measured them at each command
    factors: dict[str, float]  # price_per_kwh, co2_g_per_kwh: as the recorder was told
    energy_by_hour_j: Doubles = field(default_factory=lambda: np.zeros(0))  # of all devices, by the clock's hours
    devices_in_all: int = 0  # with their minutes here are no more than can be held

    @property
    def length_s(self) -> float:
        """Seconds."""
        return (self.until - self.since).total_seconds()


@dataclass(frozen=True)
class JobTotals:
    """How the jobs of a short span went."""

    jobs: int
    late: int
    energy_j: float | None  # of a job in the mean; None where no job's is known

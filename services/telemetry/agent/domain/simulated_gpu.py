"""A simulated GPU: power follows load and cap along a measured curve, heat follows power, clocks follow both.

Pure: time and noise are arguments.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from accelerator_autopilot.telemetry.agent.domain.simulated_models import SimulatedModel

AMBIENT_C = 25.0
THERMAL_RESISTANCE_C_PER_W = 0.2
THERMAL_TIME_CONSTANT_S = 20.0
RUNAWAY_FACTOR = 3.0
REASON_IDLE, REASON_POWER_CAP, REASON_HW_THERMAL = 0x1, 0x4, 0x40


@dataclass
class SimulatedGpu:
    """State of one device. `util` is its load from 0 to 1."""

    model: SimulatedModel
    cap_w: float = field(init=False)
    util: float = 0.0
    temp_c: float = 40.0
    energy_j: float = 0.0
    ecc_dbe: int = 0
    fault: str | None = None
    frozen: dict[str, float] | None = None
    clock_mhz: float | None = None

    def __post_init__(self) -> None:
        self.cap_w = self.model.max_w

    @property
    def throttled(self) -> bool:
        """Whether heat has lowered the clocks."""
        return self.temp_c >= self.model.slowdown_c

    @property
    def limit_w(self) -> float:
        """The effective cap: the lowest of heat limit, power cap and locked clock."""
        if self.throttled:
            return self.model.min_w
        if self.clock_mhz is None:
            return self.cap_w
        return min(self.cap_w, self.model.cap_at_speed(self.clock_mhz / self.model.clock_max_mhz))

    def power_w(self) -> float:
        """The current power draw."""
        full = self.model.power_at(self.limit_w)
        return self.model.idle_w + self.util * max(0.0, full - self.model.idle_w)

    def advance(self, dt_s: float) -> None:
        """Advance time: first-order heating towards ambient + resistance x power."""
        power = self.power_w()
        resistance = THERMAL_RESISTANCE_C_PER_W * (RUNAWAY_FACTOR if self.fault == "thermal_runaway" else 1.0)
        target = AMBIENT_C + resistance * power
        self.temp_c += (target - self.temp_c) * (1 - math.exp(-dt_s / THERMAL_TIME_CONSTANT_S))
        self.energy_j += power * dt_s

    def put_fault(self, fault: str, noise: float = 0.0) -> None:
        """Inject a fault; "none" removes it."""
        if fault == "ecc_dbe":
            self.ecc_dbe += 1
            return
        self.fault = None if fault == "none" else fault
        self.frozen = self.read(noise) if fault == "frozen_sensor" else None

    def read(self, noise: float) -> dict[str, float]:
        """Return one sample; `noise` is a standard normal number."""
        if self.frozen is not None:
            return dict(self.frozen) | {"energy_j": self.energy_j}
        limited = self.util > 0.05 and self.cap_w < self.model.max_w
        reasons = (
            (REASON_HW_THERMAL if self.throttled else 0)
            | (REASON_POWER_CAP if limited else 0)
            | (REASON_IDLE if self.util <= 0.01 else 0)
        )
        speed = self.model.speed_at(self.limit_w)
        return {
            "gpu_util_pct": min(100.0, max(0.0, 100 * self.util)),
            "mem_util_pct": min(100.0, max(0.0, 60 * self.util)),
            "memory_used_bytes": self.model.memory_bytes * (0.05 + 0.6 * self.util),
            "memory_total_bytes": float(self.model.memory_bytes),
            "power_w": max(0.0, self.power_w() + noise * 1.5),
            "energy_j": self.energy_j,
            "power_cap_w": self.cap_w,
            "power_enforced_w": self.cap_w,
            "temp_c": self.temp_c + noise * 0.3,
            "temp_slowdown_c": self.model.slowdown_c,
            "fan_pct": 0.0 if self.fault == "thermal_runaway" else min(100.0, 20 + max(0.0, self.temp_c - 40) * 1.6),
            "clock_sm_mhz": self.model.clock_max_mhz * (speed if self.util > 0.01 else 0.2),
            "clock_mem_mhz": 877.0,
            "clock_event_reasons": float(reasons),
            "ecc_sbe": 0.0,
            "ecc_dbe": float(self.ecc_dbe),
        }

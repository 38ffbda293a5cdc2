"""GPU models to simulate: their power caps as published, with the speed and the power at each.

Idle power: 70 W, the figure of the Zeus paper for a V100 with a context, and the NCCL-wait draw of an A40 in the
Perseus artifact.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from accelerator_autopilot.contracts.published_power_curves import PowerSweep, published_sweeps


@dataclass(frozen=True)
class SimulatedModel:
    """One GPU model, with the sweep of its power caps."""

    name: str
    memory_bytes: int
    idle_w: float
    sweep: PowerSweep
    clock_max_mhz: float
    slowdown_c: float

    @property
    def min_w(self) -> float:
        """The lowest cap."""
        return self.sweep.cap_w[0]

    @property
    def max_w(self) -> float:
        """The highest cap, which is the default."""
        return self.sweep.cap_w[-1]

    def power_at(self, cap_w: float) -> float:
        """Return the watts at full load under a cap."""
        return float(np.interp(cap_w, self.sweep.cap_w, self.sweep.power_w))

    def speed_at(self, cap_w: float) -> float:
        """Return the speed under a cap, 1 at the highest."""
        return 1.0 / float(np.interp(cap_w, self.sweep.cap_w, self.sweep.relative_time))

    def cap_at_speed(self, speed: float) -> float:
        """Return the cap under which it runs at this speed."""
        return float(np.interp(1.0 / max(speed, 1e-3), self.sweep.relative_time[::-1], self.sweep.cap_w[::-1]))


V100 = SimulatedModel(
    name="Tesla V100 (simulated)",
    memory_bytes=16 * 2**30,
    idle_w=70.0,
    sweep=published_sweeps()["v100", "resnet50"],
    clock_max_mhz=1530,
    slowdown_c=83.0,
)

A40 = SimulatedModel(
    name="A40 (simulated)",
    memory_bytes=48 * 2**30,
    idle_w=70.0,
    sweep=published_sweeps()["a40", "resnet50"],
    clock_max_mhz=1740,
    slowdown_c=88.0,
)

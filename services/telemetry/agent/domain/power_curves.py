"""Measured power and speed at each power cap, for simulated devices.

Medians over batch sizes and optimisers of ResNet-50 training on one GPU, from the traces that the
Zeus project publishes (ml-energy/zeus, examples/research_reproducibility/zeus_nsdi23, Apache-2.0;
You, Chung and Chowdhury, NSDI 2023). Idle power: 70 W, the figure of the Zeus paper for a V100
with a context, and the NCCL-wait draw of an A40 in the Perseus artifact.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PowerCurve:
    """One GPU model: watts drawn and time taken, relative to the highest cap, at each cap."""

    model: str
    memory_bytes: int
    idle_w: float
    cap_w: tuple[float, ...]
    relative_time: tuple[float, ...]
    draw_w: tuple[float, ...]
    clock_max_mhz: float
    slowdown_c: float

    @property
    def min_w(self) -> float:
        """The lowest cap."""
        return self.cap_w[0]

    @property
    def max_w(self) -> float:
        """The highest cap, which is the default."""
        return self.cap_w[-1]

    def draw_at(self, cap_w: float) -> float:
        """Watts at full load under a cap."""
        return float(np.interp(cap_w, self.cap_w, self.draw_w))

    def speed_at(self, cap_w: float) -> float:
        """Speed under a cap, 1 at the highest."""
        return 1.0 / float(np.interp(cap_w, self.cap_w, self.relative_time))

    def cap_at_speed(self, speed: float) -> float:
        """The cap under which it runs at this speed."""
        return float(np.interp(1.0 / max(speed, 1e-3), self.relative_time[::-1], self.cap_w[::-1]))


V100 = PowerCurve(
    model="Tesla V100 (simulated)",
    memory_bytes=16 * 2**30,
    idle_w=70.0,
    cap_w=(100, 125, 150, 175, 200, 225, 250),
    relative_time=(1.8334, 1.4059, 1.1693, 1.0944, 1.0508, 1.0190, 1.0),
    draw_w=(98.7, 122.0, 144.6, 165.3, 185.1, 206.4, 221.6),
    clock_max_mhz=1530,
    slowdown_c=83.0,
)

A40 = PowerCurve(
    model="A40 (simulated)",
    memory_bytes=48 * 2**30,
    idle_w=70.0,
    cap_w=(100, 125, 150, 175, 200, 225, 250, 275, 300),
    relative_time=(2.9076, 2.3762, 1.6439, 1.1813, 1.0683, 1.0218, 1.0113, 1.0048, 1.0),
    draw_w=(116.2, 124.8, 144.3, 160.9, 179.2, 198.4, 216.6, 230.8, 241.0),
    clock_max_mhz=1740,
    slowdown_c=88.0,
)

"""Sensors that repeat themselves to the last digit while the device works."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.anomaly.domain.finding import Finding, QuietDetector, Tick
from shared.messages.alerts import Evidence

if TYPE_CHECKING:
    from services.anomaly.domain.detectors import Tuning

TICKS = 30
WATCHED = ("power_w", "temp_c", "clock_sm_mhz", "gpu_util_pct", "memory_used_bytes")
BUSY_PCT = 5.0


class FrozenSensorDetector(QuietDetector):
    """Fires when power, temperature, clock, load and memory all stand still under load."""

    name = "frozen_sensor"

    def __init__(self) -> None:
        self._same: dict[tuple[str, str], tuple[tuple[float | None, ...], int]] = {}

    def on_tick(self, tick: Tick) -> list[Finding]:
        """Count identical samples in a row."""
        findings = []
        for device, sample in tick.samples.items():
            if "power_w" not in sample:
                continue
            now = tuple(sample.get(name) for name in WATCHED)
            before, count = self._same.get((tick.node, device), (None, 0))
            count = count + 1 if now == before else 0
            self._same[tick.node, device] = (now, count)
            firing = count >= TICKS and sample.get("gpu_util_pct", 0.0) > BUSY_PCT
            evidence = Evidence(
                metric="power_w",
                value=sample["power_w"],
                expected=f"to change within {TICKS} ticks",
                at=tick.at,
            )
            findings.append(
                Finding(
                    tick.node,
                    device,
                    "frozen_sensor",
                    firing,
                    summary=f"identical samples for {count} ticks under load",
                    action="do not trust this device's numbers; reload the driver",
                    evidence=(evidence,),
                    simulated=device in tick.simulated,
                )
            )
        return findings


def make(_: Tuning) -> FrozenSensorDetector:
    """Build it."""
    return FrozenSensorDetector()

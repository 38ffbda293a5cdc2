"""Clocks lowered by hardware. A software power cap is normal, and often our own: it is no finding."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.anomaly.domain.finding import Finding, QuietDetector, Tick
from shared.messages.alerts import Evidence
from shared.metrics_catalogue import clock_event_names

if TYPE_CHECKING:
    from services.anomaly.domain.detectors import Tuning

HARDWARE = {"hw_slowdown", "hw_power_brake", "sw_thermal"}
OPEN_AFTER_S, CLEAR_AFTER_S = 5.0, 10.0


class ThrottleDetector(QuietDetector):
    """Fires while a hardware reason holds the clocks down."""

    name = "throttle"

    def on_tick(self, tick: Tick) -> list[Finding]:
        """Look at the clock event reasons of each device."""
        findings = []
        for device, sample in tick.samples.items():
            mask = sample.get("clock_event_reasons")
            if mask is None:
                continue
            reasons = sorted(HARDWARE & set(clock_event_names(int(mask))))
            evidence = (
                Evidence(metric="clock_event_reasons", value=mask, expected="no hardware reason", at=tick.at),
                Evidence(metric="clock_sm_mhz", value=sample.get("clock_sm_mhz"), expected="", at=tick.at),
            )
            findings.append(
                Finding(
                    tick.node,
                    device,
                    "throttle",
                    bool(reasons),
                    evidence=evidence,
                    summary=f"clocks held down by {', '.join(reasons)}",
                    action="check power supply and cooling",
                    open_after_s=OPEN_AFTER_S,
                    clear_after_s=CLEAR_AFTER_S,
                    simulated=device in tick.simulated,
                )
            )
        return findings


def make(_: Tuning) -> ThrottleDetector:
    """Build it."""
    return ThrottleDetector()

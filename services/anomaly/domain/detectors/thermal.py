"""A device at the temperature at which its clocks are lowered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.anomaly.domain.finding import Finding, QuietDetector, Tick
from shared.messages.alerts import Evidence

if TYPE_CHECKING:
    from services.anomaly.domain.detectors import Tuning

MARGIN_C = 5.0
OPEN_AFTER_S, CLEAR_AFTER_S = 2.0, 3.0


class ThermalDetector(QuietDetector):
    """Fires at the slowdown temperature, clears with a margin below it."""

    name = "thermal"

    def on_tick(self, tick: Tick) -> list[Finding]:
        """Compare each device with its own limit."""
        findings = []
        for device, sample in tick.samples.items():
            temperature, limit = sample.get("temp_c"), sample.get("temp_slowdown_c")
            if temperature is None or limit is None or limit - MARGIN_C <= temperature < limit:
                continue
            evidence = (
                Evidence(metric="temp_c", value=temperature, expected=f"below {limit:g} °C", at=tick.at),
                Evidence(metric="power_w", value=sample.get("power_w"), expected="", at=tick.at),
                Evidence(
                    metric="fan_pct",
                    value=sample.get("fan_pct"),
                    expected="rising with temperature",
                    at=tick.at,
                ),
            )
            findings.append(
                Finding(
                    tick.node,
                    device,
                    "thermal",
                    temperature >= limit,
                    severity="critical",
                    evidence=evidence,
                    summary=f"{temperature:.0f} °C, at or above the slowdown temperature of {limit:.0f} °C",
                    action="drain, check fans, airflow and coolant",
                    open_after_s=OPEN_AFTER_S,
                    clear_after_s=CLEAR_AFTER_S,
                    simulated=device in tick.simulated,
                )
            )
        return findings


def make(_: Tuning) -> ThermalDetector:
    """Build it."""
    return ThermalDetector()

"""Heat: the device's own limits, the margin that newer devices report, fans, and throttling by heat or power brake."""

from __future__ import annotations

import numpy as np

from accelerator_autopilot.anomaly.domain.last_values import Bools, View
from accelerator_autopilot.anomaly.domain.rules.base import Kind, Rule, Simple, Stateless, Tested

MARGIN_C = 5.0
HOT_C = 92.0  # used where a device does not report its limit: above the slowdown of common cards, 83 to 92 °C
MEMORY_HOT_C = 100.0  # HBM and GDDR6X throttle at 95 to 110 °C
FAN_STOPPED_PCT, FAN_NEEDED_C = 5.0, 65.0
HW_SLOWDOWN, SW_THERMAL, HW_THERMAL, POWER_BRAKE = 0x8, 0x20, 0x40, 0x80


class Thermal(Stateless):
    """At the slowdown temperature, or no margin left; clears with a margin below it."""

    kind = Kind(
        "thermal",
        "critical",
        "{temp_c:.0f} °C, at or above the temperature at which clocks are lowered",
        "drain; check fans, airflow and coolant",
        ("temp_c", "temp_slowdown_c", "temp_margin_c", "power_w", "fan_pct"),
        "below the slowdown temperature",
        open_after_s=2.0,
        clear_after_s=3.0,
    )
    reads = ("temp_c", "temp_margin_c")

    def test(self, view: View) -> Tested:
        """Compare each device with its own limit."""
        limit = view.get("temp_slowdown_c")
        margin = np.where(np.isnan(limit), HOT_C, limit) - view.get("temp_c")
        reported = view.get("temp_margin_c")
        margin = np.where(np.isnan(reported), margin, np.fmin(margin, reported))
        firing = margin <= 0
        return firing, firing | (margin > MARGIN_C)


def reasons(view: View, bits: int) -> Bools:
    """Whether any of these clock event reasons is set."""
    mask = np.nan_to_num(view.get("clock_event_reasons")).astype(np.int64)
    there: Bools = (mask & bits) != 0
    return there


def make() -> list[Rule]:
    """Create one of each."""
    return [
        Thermal(),
        Simple(
            Kind(
                "memory_thermal",
                "critical",
                "memory at {temp_mem_c:.0f} °C",
                "drain; check airflow and thermal pads",
                ("temp_mem_c", "temp_c", "power_w"),
                "below 100 °C",
                open_after_s=10.0,
            ),
            ("temp_mem_c",),
            lambda view: view.get("temp_mem_c") >= MEMORY_HOT_C,
        ),
        Simple(
            Kind(
                "fan_stopped",
                "critical",
                "fan at {fan_pct:.0f} % while the device is at {temp_c:.0f} °C",
                "drain; replace the fan",
                ("fan_pct", "fan_rpm", "temp_c"),
                "rising with temperature",
                open_after_s=10.0,
            ),
            ("temp_c",),
            # A device whose fan was never seen turning has no fan.
            lambda view: (
                (view.get("temp_c") >= FAN_NEEDED_C)
                & (
                    ((view.get("fan_pct") < FAN_STOPPED_PCT) & (view.highest("fan_pct") > FAN_STOPPED_PCT))
                    | ((view.get("fan_rpm") <= 0) & (view.highest("fan_rpm") > 0))
                )
            ),
        ),
        Simple(
            Kind(
                "throttle",
                "warning",
                "clocks throttled by heat or by the hardware",
                "check cooling and power supply",
                ("clock_event_reasons", "clock_sm_mhz", "temp_c"),
                "no hardware reason",
                open_after_s=5.0,
                clear_after_s=10.0,
            ),
            ("clock_event_reasons",),
            lambda view: reasons(view, HW_SLOWDOWN | SW_THERMAL | HW_THERMAL) & ~reasons(view, POWER_BRAKE),
        ),
        Simple(
            Kind(
                "power_brake",
                "critical",
                "clocks throttled by the power supply's power brake",
                "check the node's power supply units and cables",
                ("clock_event_reasons", "clock_sm_mhz", "power_w"),
                "no power brake",
                open_after_s=5.0,
                clear_after_s=10.0,
            ),
            ("clock_event_reasons",),
            lambda view: reasons(view, POWER_BRAKE),
        ),
    ]

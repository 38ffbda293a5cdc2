"""How much of its usual batch a worker may take, and how fast it is, from its device's state. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

# Thermal and power-brake slowdowns, by the bits of nvmlClocksEventReasons (nvml.h); 0x4 is the power cap's own.
HOT_REASONS = 0x20 | 0x40 | 0x80
CAP_REASON = 0x4
MARGIN_LOW_C = 5.0
MARGIN_NONE_C = 0.0
CAPPED_FRACTION = 0.6
AT_WORK_PCT = 5.0
Severity = Literal["info", "warning", "critical"]


def share(sample: Mapping[str, float], worst_alert: Severity | None, power_default_w: float | None) -> float:
    """Return 1 for a healthy device, less for one that is hot, power-capped or alerted, 0 for one to avoid.

    `sample` is the device's latest readings by metric name; missing readings have no effect.
    """
    margin = sample.get("temp_margin_c")
    if worst_alert == "critical" or (margin is not None and margin <= MARGIN_NONE_C):
        return 0.0
    allowed = 1.0
    reasons = int(sample.get("clock_event_reasons", 0))
    if reasons & HOT_REASONS or (margin is not None and margin < MARGIN_LOW_C) or worst_alert == "warning":
        allowed = 0.5
    cap = sample.get("power_cap_w")
    if cap and power_default_w and cap < CAPPED_FRACTION * power_default_w and reasons & CAP_REASON:
        allowed = min(allowed, max(0.25, cap / power_default_w))
    return allowed


def speed(sample: Mapping[str, float], clock_max_mhz: float | None) -> float | None:
    """Return a busy device's clock relative to its maximum; None when it is idle or does not report it."""
    clock_mhz = sample.get("clock_sm_mhz")
    if not clock_mhz or not clock_max_mhz or sample.get("gpu_util_pct", 0.0) < AT_WORK_PCT:
        return None
    return min(1.0, clock_mhz / clock_max_mhz)

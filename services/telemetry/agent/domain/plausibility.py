"""Detect implausible readings: zeros that mean unknown, percentages slightly above 100. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from accelerator_autopilot.telemetry.samples import Sample

# L4, T4 and GeForce lack this sensor and report 0 °C (NVIDIA/DCGM issue 311).
_ZERO_IS_UNKNOWN = ("temp_mem_c",)
# Measured over a window that differs slightly from its divisor; on MIG by this much (NVIDIA/DCGM issue 152).
_SHARES = ("sm_util_pct", "sm_occupancy_pct", "tensor_util_pct", "dram_util_pct", "engine_util_pct")
WHOLE_PCT, MAX_PCT = 100.0, 150.0


@dataclass
class Plausible:
    """Remembers which readings each device has: a zero from a sensor that has reported other values is valid."""

    _has: dict[str, set[str]] = field(default_factory=dict)

    def of(self, device: str, sample: Mapping[str, float]) -> Sample:
        """Return the sample without implausible values. Values far above 100 % stay, for anomaly detection."""
        kept = dict(sample)
        for name in _ZERO_IS_UNKNOWN:
            value = kept.get(name)
            if value is not None and value != 0:
                self._has.setdefault(device, set()).add(name)
            elif value == 0 and name not in self._has.get(device, ()):
                del kept[name]
        for name in _SHARES:
            if WHOLE_PCT < kept.get(name, 0.0) <= MAX_PCT:
                kept[name] = WHOLE_PCT
        return kept

    def forget(self, device: str) -> None:
        """Forget a device that is gone."""
        self._has.pop(device, None)

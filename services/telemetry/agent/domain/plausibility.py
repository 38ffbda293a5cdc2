"""What is no reading though it is a number: zeros that mean unknown, shares a little above the whole. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from accelerator_autopilot.telemetry.samples import Sample

# L4, T4 and GeForce have no such sensor, and tell 0 °C (NVIDIA/DCGM issue 311).
_ZERO_IS_UNKNOWN = ("temp_mem_c",)
# Measured over a window that is not quite the one it is divided by; on MIG by as much as this (NVIDIA/DCGM issue 152).
_SHARES = ("sm_util_pct", "sm_occupancy_pct", "tensor_util_pct", "dram_util_pct", "engine_util_pct")
WHOLE_PCT, MOST_PCT = 100.0, 150.0


@dataclass
class Plausible:
    """Remembers of each device which readings it has: a zero of a sensor that told another is a reading."""

    _has: dict[str, set[str]] = field(default_factory=dict)

    def of(self, device: str, sample: Mapping[str, float]) -> Sample:
        """A sample without what is no reading. What is far above the whole stays: detection tells it."""
        kept = dict(sample)
        for name in _ZERO_IS_UNKNOWN:
            value = kept.get(name)
            if value is not None and value != 0:
                self._has.setdefault(device, set()).add(name)
            elif value == 0 and name not in self._has.get(device, ()):
                del kept[name]
        for name in _SHARES:
            if WHOLE_PCT < kept.get(name, 0.0) <= MOST_PCT:
                kept[name] = WHOLE_PCT
        return kept

    def forget(self, device: str) -> None:
        """A device that is gone."""
        self._has.pop(device, None)

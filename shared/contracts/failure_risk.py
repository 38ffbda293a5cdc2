"""Estimate how likely a device is to fail again from its alerts, weighted by kind and age. Pure.

Field studies find that devices which failed once fail again (Tiwari et al., "Understanding GPU errors on large-scale
HPC systems", HPCA 2015). The weights of the kinds are a judgement: they rank devices, they are not probabilities.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from accelerator_autopilot.contracts.messages.alerts import Alert

HALF_LIFE = timedelta(days=14)
_WEIGHTS = {
    "row_remap_failure": 2.0, "device_lost": 1.5, "ecc_uncorrected": 1.2, "samples_stopped": 1.0, "pcie_fatal": 1.0,
    "nvlink_down": 1.0, "recovery_action": 1.0, "fan_stopped": 1.0, "driver_hung": 0.8, "row_remapped": 0.6,
    "row_remap_pending": 0.6, "page_retired": 0.6, "nvlink_errors": 0.5, "pcie_link_degraded": 0.5,
    "ecc_corrected": 0.4, "pcie_replays": 0.4, "memory_thermal": 0.4, "thermal": 0.3, "samples_missing": 0.3,
    "power_brake": 0.2, "unusual": 0.2, "throttle": 0.1,
}  # fmt: skip
_XID_WEIGHT = {"critical": 1.2, "warning": 0.5, "info": 0.0}


@dataclass(frozen=True)
class Risk:
    """A device's risk from 0 to 1, and its causes, the heaviest first: kind, count, share of the risk."""

    node: str
    device: str
    score: float
    because: tuple[tuple[str, int, float], ...]

    @property
    def explained(self) -> str:
        """Return the causes as a line."""
        return ", ".join(f"{kind} x{times} ({share:.0%})" for kind, times, share in self.because)


def weight(alert: Alert) -> float:
    """Return the weight of one alert."""
    return _XID_WEIGHT[alert.severity] if alert.kind.startswith("xid_") else _WEIGHTS.get(alert.kind, 0.0)


def risks(alerts: Iterable[Alert], now: datetime) -> list[Risk]:
    """Return the risk of every device with alerts, the highest first."""
    first: dict[str, Alert] = {}
    for alert in alerts:
        first.setdefault(alert.id, alert)
    parts: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for alert in first.values():
        faded = weight(alert) * 0.5 ** ((now - alert.opened_at) / HALF_LIFE)
        if faded > 0:
            parts[alert.node, alert.device][alert.kind].append(faded)
    found = []
    for (node, device), kinds in parts.items():
        total = sum(map(sum, kinds.values()))
        because = sorted(((kind, len(w), sum(w) / total) for kind, w in kinds.items()), key=lambda b: -b[2])
        found.append(Risk(node, device, 1 - math.exp(-total), tuple(because)))
    return sorted(found, key=lambda r: -r.score)

"""Group alerts into incidents, with the most likely root cause first. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from accelerator_autopilot.contracts.messages.alerts import Alert, Severity
from accelerator_autopilot.contracts.severity_ranks import SEVERITY_RANK

# From causes to consequences: a stopped fan heats, heat throttles, throttled clocks are low, and everything is unusual.
_CAUSES = (
    "power_brake", "fan_stopped", "device_lost", "driver_hung", "row_remap_failure", "ecc_uncorrected",
    "recovery_action", "pcie_fatal", "nvlink_down", "pcie_link_degraded", "agent_silent", "thermal", "memory_thermal",
    "throttle", "nvlink_errors", "pcie_replays", "clocks_low", "hung_kernel", "samples_stopped", "samples_missing",
)  # fmt: skip
_RANK = {kind: rank for rank, kind in enumerate(_CAUSES)}


@dataclass(frozen=True)
class Incident:
    """Alerts of one incident, the most likely root cause first."""

    id: str
    alerts: tuple[Alert, ...]

    @property
    def root(self) -> Alert:
        """The most likely cause of the others."""
        return self.alerts[0]

    @property
    def severity(self) -> Severity:
        """The highest severity of its alerts."""
        return max((a.severity for a in self.alerts), key=SEVERITY_RANK.__getitem__)

    @property
    def devices(self) -> list[str]:
        """Every device of it, once."""
        return sorted({f"{a.node}/{a.device}" for a in self.alerts})


def incidents(alerts: Iterable[Alert]) -> list[Incident]:
    """Return open alerts as incidents, the most severe and oldest first."""
    of: dict[str, list[Alert]] = defaultdict(list)
    for alert in alerts:
        of[alert.incident or alert.id].append(alert)
    found = [Incident(name, tuple(sorted(members, key=_likeliest))) for name, members in of.items()]
    return sorted(found, key=lambda i: (-SEVERITY_RANK[i.severity], min(a.opened_at for a in i.alerts)))


def _likeliest(alert: Alert) -> tuple[int, object]:
    # A hardware XID identifies its cause itself.
    rank = -1 if alert.kind.startswith("xid_") and alert.severity != "info" else _RANK.get(alert.kind, len(_CAUSES))
    return rank, alert.opened_at

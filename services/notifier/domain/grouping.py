"""One message an incident: its first alert, what is worse than all told of it, and the end of what was told. Pure."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from shared.messages.alerts import Alert

MOST_INCIDENTS = 10_000
_RANK = {"info": 0, "warning": 1, "critical": 2}


@dataclass
class IncidentGrouping:
    """Remembers what was told of the latest incidents."""

    _told: OrderedDict[str, dict[str, int]] = field(default_factory=OrderedDict)

    def tells(self, alert: Alert) -> bool:
        """Whether this alert is to be told; then it counts as told."""
        incident = alert.incident or alert.id
        told = self._told.setdefault(incident, {})
        self._told.move_to_end(incident)
        while len(self._told) > MOST_INCIDENTS:
            self._told.popitem(last=False)
        rank = _RANK[alert.severity]
        if alert.state == "resolved" or alert.id in told:
            # What was told goes on being told; what never was has no end either.
            known = alert.id in told
            if known:
                told[alert.id] = max(told[alert.id], rank)
            return known
        if told and rank <= max(told.values()):
            return False
        told[alert.id] = rank
        return True

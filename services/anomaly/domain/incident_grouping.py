"""Group related alerts into incidents: of a device, of a node, or of a kind on many nodes at once. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from accelerator_autopilot.contracts.messages.alerts import Alert

ON_DEVICE = timedelta(minutes=30)
ON_NODE = timedelta(minutes=5)
ACROSS_NODES = timedelta(minutes=2)
MANY_NODES = 3
MAX_REMEMBERED = 10_000


@dataclass(frozen=True)
class _Opened:
    alert_id: str
    incident: str
    node: str
    device: str
    kind: str
    at: datetime


@dataclass
class IncidentGrouper:
    """Remembers what opened recently and is still open."""

    _recent: deque[_Opened] = field(default_factory=lambda: deque(maxlen=MAX_REMEMBERED))
    _open: set[str] = field(default_factory=set)

    def incident_of(self, alert_id: str, node: str, device: str, kind: str, now: datetime) -> str:
        """Return the incident of an alert as it opens; a new one is named after the alert."""
        while self._recent and now - self._recent[0].at > ON_DEVICE:
            self._recent.popleft()
        related = self._same_device(node, device) or self._same_node(node, kind, now) or self._many_nodes(kind, now)
        incident = related.incident if related else alert_id
        self._recent.append(_Opened(alert_id, incident, node, device, kind, now))
        self._open.add(alert_id)
        return incident

    def know(self, alert: Alert) -> None:
        """Continue with an alert that was open before a restart."""
        name = alert.incident or alert.id
        self._recent.append(_Opened(alert.id, name, alert.node, alert.device, alert.kind, alert.opened_at))
        self._open.add(alert.id)

    def forget(self, alert: Alert) -> None:
        """Forget an alert that was resolved."""
        self._open.discard(alert.id)

    def _same_device(self, node: str, device: str) -> _Opened | None:
        mine = (o for o in reversed(self._recent) if (o.node, o.device) == (node, device) and o.alert_id in self._open)
        return next(mine, None)

    def _same_node(self, node: str, kind: str, now: datetime) -> _Opened | None:
        """Find the same kind on the same node, or the node's own silence."""
        near = (o for o in reversed(self._recent) if o.node == node and now - o.at <= ON_NODE)
        return next((o for o in near if o.kind in {kind, "agent_silent"}), None)

    def _many_nodes(self, kind: str, now: datetime) -> _Opened | None:
        """Find the same kind on several nodes within a short time: a shared component failed."""
        same_kind = [o for o in self._recent if o.kind == kind and now - o.at <= ACROSS_NODES]
        return same_kind[0] if len({o.node for o in same_kind}) >= MANY_NODES - 1 else None

"""Which critical events and alerts there were, and which receivers were told. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class AlertLedger:
    """From a device's event to an alert, from the alert to every receiver; times are when the soak saw each."""

    events: dict[tuple[str, str, str], float] = field(default_factory=dict)
    alerts: dict[str, tuple[float, str]] = field(default_factory=dict)
    alerted: set[tuple[str, str, str]] = field(default_factory=set)
    told: dict[str, set[str]] = field(default_factory=dict)
    delays_s: list[float] = field(default_factory=list)

    def event(self, node: str, device: str, kind: str, now: float) -> None:
        """An event that has to become an alert of this kind."""
        self.events.setdefault((node, device, kind), now)

    def alert(self, alert_id: str, node: str, device: str, kind: str, now: float) -> None:
        """A critical alert of the stream."""
        self.alerts.setdefault(alert_id, (now, f"{kind} of {node}/{device}"))
        self.alerted.add((node, device, kind))

    def delivered(self, receiver: str, alert_id: str, now: float) -> None:
        """A receiver was told of an alert."""
        if alert_id not in self.told.setdefault(receiver, set()) and alert_id in self.alerts:
            self.delays_s.append(max(0.0, now - self.alerts[alert_id][0]))
        self.told[receiver].add(alert_id)

    def silent(self, before: float = float("inf")) -> Iterator[str]:
        """What should have been told by now, of what was seen before a time."""
        for key, at in self.events.items():
            if at < before and key not in self.alerted:
                yield f"event {key[2]} of {key[0]}/{key[1]} never became an alert"
        for receiver, told in self.told.items():
            for alert_id, (at, what) in self.alerts.items():
                if at < before and alert_id not in told:
                    yield f"receiver {receiver} was never told of alert {alert_id}: {what}"

"""What has been delivered to a subscription for each alert, and what is still pending. Pure.

Order is kept within an alert only: an alert on hold delays no other.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import ClassVar

from pydantic import Field

from accelerator_autopilot.contracts.messages.alerts import Alert, Severity
from accelerator_autopilot.contracts.messages.base import Message, OwnedMessage
from accelerator_autopilot.contracts.messages.notifications import Subscription
from accelerator_autopilot.contracts.severity_ranks import SEVERITY_RANK
from accelerator_autopilot.notifier.domain.delivery_rules import wants

# The end of an incident is unknown: a resolved alert represents it for this long, unless there are too many.
REMEMBERED, MAX_REMEMBERED = timedelta(days=1), 5_000
NEVER_PUBLISHED = "it is no longer open, and its resolution was never published"


class Notice(Message):
    """One state of an alert to deliver; `sequence` is its position in the stream."""

    alert: Alert
    sequence: int
    attempts: int = 0
    tried_at: datetime | None = None


class LedgerEntry(OwnedMessage):
    """One alert of a subscription; KV `notices`, key = subscription and alert."""

    DEFAULT_ACTOR: ClassVar[str] = "notifier"

    alert: Alert
    waiting: list[Notice] = []
    told: Severity | None = Field(default=None, description="the worst that was told; none was")
    sequence: int = 0
    ended_at: datetime | None = None
    known: bool = Field(default=True, description="whether its beginning was seen")
    silenced: bool = False

    @property
    def rank(self) -> int:
        """The highest severity that was delivered or is pending; -1 for none."""
        ranks = [SEVERITY_RANK[notice.alert.severity] for notice in self.waiting]
        return max([*ranks, SEVERITY_RANK[self.told] if self.told else -1], default=-1)


class StreamPosition(OwnedMessage):
    """A subscription's position in the stream of alerts; KV `notices`, key = subscription.

    `stream` is when that stream was created: the sequences of another one start over.
    """

    DEFAULT_ACTOR: ClassVar[str] = "notifier"

    stream: str = ""
    sequence: int = 0


class SubscriptionLedger:
    """The entries of one subscription by alert."""

    def __init__(self, subscription: Subscription, entries: dict[str, LedgerEntry] | None = None) -> None:
        self.subscription = subscription
        self.entries = dict(entries or {})

    def take(self, alert: Alert, sequence: int) -> bool:
        """Add a change of an alert; True when there is something new to store."""
        known = self.entries.get(alert.id)
        if known is not None and sequence <= known.sequence:
            return False
        # What was delivered is also resolved where the alert has escalated past the filter.
        ends = known is not None and alert.state == "resolved" and self.subscription.active
        if not ends and not wants(self.subscription, alert, any_state=True):
            return False
        if alert.state == "resolved":
            entry = self._ended(known, alert, sequence)
        else:
            entry = self._changed(known, alert, sequence)
        self.entries[alert.id] = entry
        return known is None or entry.waiting != known.waiting or entry.ended_at != known.ended_at

    def adopt(self, alert: Alert) -> bool:
        """Add what was open before the subscription; True when it is new here and has to be delivered."""
        if alert.id in self.entries:
            return False
        seen = alert.model_copy(update={"at": max(alert.at, self.subscription.created_at)})
        if not wants(self.subscription, seen, any_state=True):
            return False
        self.entries[alert.id] = self._changed(None, alert, 0)
        return True

    def _changed(self, known: LedgerEntry | None, alert: Alert, sequence: int) -> LedgerEntry:
        entry = known or LedgerEntry(alert=alert)
        if entry.ended_at is not None:
            return entry
        rank = SEVERITY_RANK[alert.severity]
        every_update = "updated" in self.subscription.states
        if self.subscription.by_incident and entry.rank < 0:
            tells = rank > max((e.rank for e in self._of_incident(alert)), default=-1)
        else:
            tells = rank > entry.rank or (every_update and alert.state == "updated")
        waiting = entry.waiting
        if tells and self._state_wanted(alert):
            waiting = _with(waiting, Notice(alert=alert, sequence=sequence))
        return entry.model_copy(update={"alert": alert, "waiting": waiting, "sequence": sequence})

    def _ended(self, known: LedgerEntry | None, alert: Alert, sequence: int) -> LedgerEntry:
        entry = known or LedgerEntry(alert=alert, known=False)
        waiting = entry.waiting
        # A resolution is only delivered if the alert was; alerts that began before this ledger are unknown.
        if (entry.rank >= 0 or not entry.known) and self._state_wanted(alert) and entry.ended_at is None:
            waiting = [*waiting, Notice(alert=alert, sequence=sequence)]
        return entry.model_copy(update={"alert": alert, "waiting": waiting, "sequence": sequence, "ended_at": alert.at})

    def end(self, alert_id: str, now: datetime) -> None:
        """Resolve an alert that is no longer open although nobody published that."""
        entry = self.entries[alert_id]
        if entry.ended_at is None:
            alert = entry.alert.model_copy(update={"state": "resolved", "at": now, "end_reason": NEVER_PUBLISHED})
            self.entries[alert_id] = self._ended(entry, alert, entry.sequence)

    def restart(self) -> None:
        """Restart after the stream was recreated and its sequences start over: any is newer than what is known."""
        self.entries = {key: entry.model_copy(update={"sequence": 0}) for key, entry in self.entries.items()}

    def delivered(self, alert_id: str) -> None:
        """Mark the first pending state as delivered."""
        entry = self.entries[alert_id]
        worst = max(entry.waiting[0].alert.severity, entry.told or "info", key=SEVERITY_RANK.__getitem__)
        self.entries[alert_id] = entry.model_copy(update={"waiting": entry.waiting[1:], "told": worst})

    def drop(self, alert_id: str) -> None:
        """Drop the first pending state; also the resolution of an alert that was never delivered."""
        entry = self.entries[alert_id]
        waiting = entry.waiting[1:]
        if entry.told is None and entry.known:
            waiting = [notice for notice in waiting if notice.alert.state != "resolved"]
        self.entries[alert_id] = entry.model_copy(update={"waiting": waiting})

    def supersede(self, alert_id: str) -> None:
        """Drop the first pending state in favour of the escalation after it."""
        entry = self.entries[alert_id]
        self.entries[alert_id] = entry.model_copy(update={"waiting": entry.waiting[1:]})

    def failed(self, alert_id: str, now: datetime) -> Notice:
        """Count an attempt to deliver the first pending state."""
        entry = self.entries[alert_id]
        first = entry.waiting[0]
        first = first.model_copy(update={"attempts": first.attempts + 1, "tried_at": first.tried_at or now})
        self.entries[alert_id] = entry.model_copy(update={"waiting": [first, *entry.waiting[1:]]})
        return first

    def silence(self, alert_id: str) -> None:
        """Remember that its silence was recorded."""
        self.entries[alert_id] = self.entries[alert_id].model_copy(update={"silenced": True})

    def over(self, alert_id: str, now: datetime) -> bool:
        """Whether an alert's entry is no longer needed."""
        entry = self.entries[alert_id]
        if entry.ended_at is None or entry.waiting:
            return False
        return not self.subscription.by_incident or now - entry.ended_at > REMEMBERED

    def waiting(self) -> list[str]:
        """Return alerts with something to deliver: the most severe first, then in order."""
        going_on = self._incidents_going_on()
        found = [
            (-SEVERITY_RANK[e.waiting[-1].alert.severity], e.waiting[0].sequence, key)
            for key, e in self._waiting()
            # One message per incident: it is resolved with its last alert.
            if e.waiting[0].alert.state != "resolved" or _incident(e.alert) not in going_on
        ]
        return [key for _, _, key in sorted(found)]

    def sweep(self, now: datetime) -> set[str]:
        """Remove entries that are no longer needed; returns them."""
        ended = [(entry.ended_at, key) for key, entry in self.entries.items() if entry.ended_at and not entry.waiting]
        gone = {key for _, key in ended if self.over(key, now)}
        gone |= {key for _, key in sorted(ended)[: max(0, len(ended) - MAX_REMEMBERED)]}
        for key in gone:
            del self.entries[key]
        return gone

    @property
    def pending_count(self) -> int:
        """Return how many alerts have something to deliver."""
        return sum(1 for _ in self._waiting())

    def open(self) -> list[str]:
        """Return alerts that are open, as far as is known."""
        return [key for key, entry in self.entries.items() if entry.ended_at is None]

    def open_and_told(self) -> list[LedgerEntry]:
        """Return alerts that were delivered and have no resolution pending."""
        going_on = self._incidents_going_on()
        return [
            entry
            for entry in self.entries.values()
            if entry.told is not None
            and (entry.ended_at is None or (bool(entry.waiting) and _incident(entry.alert) in going_on))
        ]

    def _incidents_going_on(self) -> set[str]:
        if not self.subscription.by_incident:
            return set()
        return {_incident(entry.alert) for entry in self.entries.values() if entry.ended_at is None}

    def _waiting(self) -> Iterator[tuple[str, LedgerEntry]]:
        return ((key, entry) for key, entry in self.entries.items() if entry.waiting)

    def _of_incident(self, alert: Alert) -> list[LedgerEntry]:
        incident = _incident(alert)
        return [e for e in self.entries.values() if _incident(e.alert) == incident]

    def _state_wanted(self, alert: Alert) -> bool:
        return not self.subscription.states or alert.state in self.subscription.states


def _incident(alert: Alert) -> str:
    return alert.incident or alert.id


def _with(waiting: list[Notice], notice: Notice) -> list[Notice]:
    """Of undelivered changes only the newest is kept; the first may be in delivery."""
    last = waiting[-1] if len(waiting) > 1 else None
    if last is None or {last.alert.state, notice.alert.state} != {"updated"}:
        return [*waiting, notice]
    worse = last.alert.escalated or notice.alert.escalated
    return [*waiting[:-1], notice.model_copy(update={"alert": notice.alert.model_copy(update={"escalated": worse})})]

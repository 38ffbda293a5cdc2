"""Turn findings into alerts: opened after a while, never repeated, resolved after a while. Pure.

A fault that only a reset fixes is held: a drained device is quiet because it is drained, so its quiet proves nothing.
Such an alert ends by `release`, after a reset or an operator's command, or by `end`, when the device is gone.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from accelerator_autopilot.anomaly.domain.findings import Finding
from accelerator_autopilot.anomaly.domain.incident_grouping import IncidentGrouper
from accelerator_autopilot.contracts.ids import derived_id
from accelerator_autopilot.contracts.messages.alerts import Alert
from accelerator_autopilot.contracts.severity_ranks import SEVERITY_RANK

UPDATE_INTERVAL = timedelta(minutes=1)
# What one rest cures may be due to the room; what recurs again and again within a day is due to the device.
RECURRENCE_WINDOW, MAX_RECURRENCES = timedelta(days=1), 3
MAX_REMEMBERED = 10_000
Key = tuple[str, str, str]


def unknown_epochs(_node: str, _device: str) -> tuple[str, str]:
    """Return no boot and no driver load."""
    return "", ""


@dataclass
class _Condition:
    since: datetime
    firing: bool
    alert: Alert | None = None
    reported_at: datetime | None = None
    count: int = 0
    fired_at: datetime | None = None
    released: str = ""


@dataclass
class AlertLifecycle:
    """Every condition that was ever detected, and its alert while it has one.

    `epochs` returns the current boot of a node and driver load of a device. With `holding` off, as for a past
    without resets, every alert ends when its condition does.
    """

    epochs: Callable[[str, str], tuple[str, str]] = unknown_epochs
    holding: bool = True
    _conditions: dict[Key, _Condition] = field(default_factory=dict)
    _correlation: IncidentGrouper = field(default_factory=IncidentGrouper)
    _critical: OrderedDict[Key, deque[datetime]] = field(default_factory=OrderedDict)

    @classmethod
    def restore(
        cls, alerts: Iterable[Alert], epochs: Callable[[str, str], tuple[str, str]] = unknown_epochs
    ) -> AlertLifecycle:
        """Continue with the alerts that were open before a restart."""
        book = cls(epochs)
        for alert in alerts:
            book.adopt(alert)
        return book

    def adopt(self, alert: Alert) -> bool:
        """Take over an alert that was opened elsewhere; False when that condition already has one."""
        key = (alert.node, alert.device, alert.kind)
        known = self._conditions.get(key)
        if known is not None and known.alert is not None:
            return False
        self._correlation.know(alert)
        self._conditions[key] = _Condition(
            alert.at, firing=True, alert=alert, reported_at=alert.at, count=alert.count, fired_at=alert.at
        )
        return True

    @property
    def open_alerts(self) -> list[Alert]:
        """Return the open alerts."""
        return [c.alert for c in self._conditions.values() if c.alert is not None]

    def has_open(self, node: str, device: str, kinds: AbstractSet[str]) -> bool:
        """Whether a device has an open alert of any of these kinds."""
        return any((condition := self._conditions.get((node, device, kind))) and condition.alert for kind in kinds)

    def observe(self, finding: Finding, now: datetime) -> Alert | None:
        """Process a finding; returns the alert when it opened, changed or resolved."""
        key = (finding.node, finding.device, finding.kind)
        condition = self._conditions.get(key)
        if condition is None:
            if not finding.firing:
                return None
            condition = self._conditions[key] = _Condition(now, firing=True)
        elif condition.firing != finding.firing:
            condition.since, condition.firing = now, finding.firing
        held = (now - condition.since).total_seconds()
        if held < 0:
            # A clock that was set back must not hold a condition forever.
            condition.since, held = now, 0.0
        if finding.firing:
            condition.count += 1
            condition.fired_at = min(finding.at, now) if finding.at else now
            return self._fire(condition, finding, now) if held >= finding.open_after_s else None
        if condition.alert is None:
            del self._conditions[key]
            return None
        if condition.alert.holds and not condition.released:
            return None
        return self._resolve(key, condition, now, condition.released) if held >= finding.clear_after_s else None

    def held_on(self, node: str) -> list[Alert]:
        """Return alerts of a node that wait for a reset or an operator."""
        return [a for a in self.open_alerts if a.node == node and a.holds]

    def note_epochs(self, alert: Alert, boot_id: str, driver_epoch: str) -> Alert | None:
        """Add the epochs that the node reported only after the fault; returns the alert when that changed it."""
        condition = self._conditions.get((alert.node, alert.device, alert.kind))
        if condition is None or condition.alert is None or condition.alert.id != alert.id:
            return None
        known = condition.alert
        more = {"boot_id": known.boot_id or boot_id, "driver_epoch": known.driver_epoch or driver_epoch}
        if (known.boot_id, known.driver_epoch) == (more["boot_id"], more["driver_epoch"]):
            return None
        condition.alert = known.model_copy(update=more)
        return condition.alert

    def release(
        self, node: str, device: str, over: Callable[[Alert, datetime], str], now: datetime
    ) -> tuple[bool, list[Alert]]:
        """Allow held alerts of a device to end; returns whether any may, and those that resolved.

        `over` returns, for an alert and when it was last detected, why it may end; empty when it may not.
        """
        released, ended = False, []
        for key in [key for key in self._conditions if key[:2] == (node, device)]:
            condition = self._conditions[key]
            if condition.alert is None or not condition.alert.holds:
                continue
            reason = over(condition.alert, condition.fired_at or now)
            released |= bool(reason)
            condition.released = reason or condition.released
            if condition.released and not condition.firing:
                ended.append(self._resolve(key, condition, now, condition.released))
        return released, ended

    def end(
        self,
        node: str,
        device: str,
        reason: str,
        now: datetime,
        *,
        kinds: AbstractSet[str] | None = None,
        held: bool = True,
    ) -> list[Alert]:
        """Resolve a device's alerts, all or of some kinds, including held ones: nothing more can be detected on it."""
        ended = []
        for key in [key for key in self._conditions if key[:2] == (node, device)]:
            condition = self._conditions[key]
            if (kinds is not None and key[2] not in kinds) or (condition.alert and condition.alert.holds and not held):
                continue
            if condition.alert is None:
                del self._conditions[key]
            else:
                ended.append(self._resolve(key, condition, now, reason))
        return ended

    def _fire(self, condition: _Condition, finding: Finding, now: datetime) -> Alert | None:
        known = condition.alert
        if known is None:
            condition.alert = self._opened(condition, finding, now)
        else:
            worse = SEVERITY_RANK[finding.severity] > SEVERITY_RANK[known.severity]
            # The elapsed time in either direction: a clock that was set back must not silence it.
            due = condition.reported_at is not None and abs(now - condition.reported_at) >= UPDATE_INTERVAL
            if not worse and not due:
                return None
            condition.alert = known.model_copy(update=self._changes(known, condition, finding, now, worse=worse))
        condition.reported_at = now
        return condition.alert

    def _opened(self, condition: _Condition, finding: Finding, now: datetime) -> Alert:
        identity = derived_id(finding.node, finding.device, finding.kind, now.isoformat())
        boot_id, driver_epoch = self.epochs(finding.node, finding.device)
        return Alert(
            id=identity,
            node=finding.node,
            device=finding.device,
            kind=finding.kind,
            severity=finding.severity,
            state="opened",
            summary=finding.summary,
            action=finding.action,
            evidence=list(finding.evidence),
            opened_at=now,
            at=now,
            count=condition.count,
            simulated=finding.simulated,
            score=finding.score,
            runbook=finding.runbook,
            incident=self._correlation.incident_of(identity, finding.node, finding.device, finding.kind, now),
            holds=self._holds(finding, now, worse=True),
            boot_id=finding.boot_id or boot_id,
            driver_epoch=finding.driver_epoch or driver_epoch,
        )

    def _changes(
        self, known: Alert, condition: _Condition, finding: Finding, now: datetime, *, worse: bool
    ) -> dict[str, Any]:
        changes: dict[str, Any] = {
            "state": "updated",
            "at": now,
            "escalated": worse,
            "evidence": list(finding.evidence),
            "count": condition.count,
            "score": max(known.score, finding.score),
            "holds": known.holds or self._holds(finding, now, worse=worse),
        }
        if worse:
            changes |= {"severity": finding.severity, "worsened_at": now}
        if SEVERITY_RANK[finding.severity] >= SEVERITY_RANK[known.severity]:
            # The text of a milder finding does not fit an alert that was worse before.
            changes |= {"summary": finding.summary, "action": finding.action, "runbook": finding.runbook}
        if finding.boot_id or finding.driver_epoch:
            # It recurred, maybe after a reset: only a later one fixes it.
            changes |= {"boot_id": finding.boot_id, "driver_epoch": finding.driver_epoch}
        return changes

    def _holds(self, finding: Finding, now: datetime, *, worse: bool) -> bool:
        if not self.holding:
            return False
        returned = finding.severity == "critical" and worse and self._returns(finding, now) > MAX_RECURRENCES
        return finding.holds or returned

    def _returns(self, finding: Finding, now: datetime) -> int:
        """Return how often this became critical within a day, including this time."""
        key = (finding.node, finding.device, finding.kind)
        times = self._critical.setdefault(key, deque(maxlen=MAX_RECURRENCES + 1))
        self._critical.move_to_end(key)
        while len(self._critical) > MAX_REMEMBERED:
            self._critical.popitem(last=False)
        times.append(now)
        return sum(abs(now - at) <= RECURRENCE_WINDOW for at in times)

    def _resolve(self, key: Key, condition: _Condition, now: datetime, reason: str = "") -> Alert:
        assert condition.alert is not None  # noqa: S101  the caller looked
        del self._conditions[key]
        self._correlation.forget(condition.alert)
        changes = {"state": "resolved", "at": now, "count": condition.count, "end_reason": reason, "escalated": False}
        return condition.alert.model_copy(update=changes)

"""From findings to alerts: opened after a while, never repeated, resolved after a while. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from services.anomaly.domain.finding import Finding
from services.anomaly.domain.incidents import Correlation
from shared.ids import derived_id
from shared.messages.alerts import Alert

UPDATE_EVERY = timedelta(minutes=1)
_ORDER = {"info": 0, "warning": 1, "critical": 2}
Key = tuple[str, str, str]


@dataclass
class _Condition:
    since: datetime
    firing: bool
    alert: Alert | None = None
    told_at: datetime | None = None
    count: int = 0


@dataclass
class AlertBook:
    """Every condition that was ever found, and its alert while it has one."""

    _conditions: dict[Key, _Condition] = field(default_factory=dict)
    _correlation: Correlation = field(default_factory=Correlation)

    @classmethod
    def restore(cls, alerts: Iterable[Alert]) -> AlertBook:
        """Go on with the alerts that were open before a restart."""
        book = cls()
        for alert in alerts:
            key = (alert.node, alert.device, alert.kind)
            book._correlation.know(alert)
            book._conditions[key] = _Condition(alert.at, firing=True, alert=alert, told_at=alert.at, count=alert.count)
        return book

    @property
    def open_alerts(self) -> list[Alert]:
        """Alerts that are open."""
        return [c.alert for c in self._conditions.values() if c.alert is not None]

    def has_open(self, node: str, device: str, kinds: AbstractSet[str]) -> bool:
        """Whether a device has an open alert of any of these kinds."""
        return any((condition := self._conditions.get((node, device, kind))) and condition.alert for kind in kinds)

    def observe(self, finding: Finding, now: datetime) -> Alert | None:
        """Take a finding in; returns the alert when it opened, changed or ended."""
        key = (finding.node, finding.device, finding.kind)
        condition = self._conditions.get(key)
        if condition is None:
            if not finding.firing:
                return None
            condition = self._conditions[key] = _Condition(now, firing=True)
        elif condition.firing != finding.firing:
            condition.since, condition.firing = now, finding.firing
        held = (now - condition.since).total_seconds()
        if finding.firing:
            condition.count += 1
            return self._fire(condition, finding, now) if held >= finding.open_after_s else None
        if condition.alert is None:
            del self._conditions[key]
            return None
        return self._resolve(key, condition, now) if held >= finding.clear_after_s else None

    def _fire(self, condition: _Condition, finding: Finding, now: datetime) -> Alert | None:
        known = condition.alert
        if known is None:
            identity = derived_id(finding.node, finding.device, finding.kind, now.isoformat())
            condition.alert = Alert(
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
            )
        else:
            worse = _ORDER[finding.severity] > _ORDER[known.severity]
            due = condition.told_at is not None and now - condition.told_at >= UPDATE_EVERY
            if not worse and not due:
                return None
            condition.alert = known.model_copy(
                update={
                    "state": "updated",
                    "severity": finding.severity if worse else known.severity,
                    "at": now,
                    "summary": finding.summary,
                    "evidence": list(finding.evidence),
                    "count": condition.count,
                    "score": max(known.score, finding.score),
                }
            )
        condition.told_at = now
        return condition.alert

    def _resolve(self, key: Key, condition: _Condition, now: datetime) -> Alert | None:
        assert condition.alert is not None  # noqa: S101  the caller looked
        del self._conditions[key]
        self._correlation.forget(condition.alert)
        return condition.alert.model_copy(update={"state": "resolved", "at": now, "count": condition.count})

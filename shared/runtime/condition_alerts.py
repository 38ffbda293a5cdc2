"""Alerts of conditions that a service checks repeatedly: opened, renewed, escalated and resolved, each published once.

What JetStream does not accept is queued and published later, in order. Open alerts are read back when the publisher
starts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from accelerator_autopilot.contracts.errors import InvalidInputError, UnavailableError
from accelerator_autopilot.contracts.ids import new_id
from accelerator_autopilot.contracts.messages.alerts import Alert, Evidence, Severity
from accelerator_autopilot.contracts.severity_ranks import SEVERITY_RANK
from accelerator_autopilot.runtime.alert_publishing import BUCKET, tell
from accelerator_autopilot.runtime.bus import BUS_ERRORS, Bus
from accelerator_autopilot.runtime.failure_description import failure_fields
from accelerator_autopilot.transport.clock import Clock, utc_now
from accelerator_autopilot.transport.direct_reads import bucket_items

log = logging.getLogger(__name__)

RENEW_INTERVAL = timedelta(seconds=60)

Key = tuple[str, str, str]


@dataclass(frozen=True)
class Condition:
    """Something that is wrong now; `device` may be any part of a node that an alert is about."""

    node: str
    device: str
    kind: str
    severity: Severity
    summary: str
    action: str = ""
    evidence: tuple[Evidence, ...] = ()

    @property
    def key(self) -> Key:
        """The identity of its alert: there is at most one."""
        return self.node, self.device, self.kind


def next_state(
    known: Alert | None, condition: Condition | None, now: datetime, prefix: str = "", actor: str = ""
) -> Alert | None:
    """Return the next state to publish, if any. A renewal is not `escalated`, so that people are not notified again."""
    if condition is None:
        if known is None:
            return None
        return known.model_copy(update={"state": "resolved", "escalated": False, "at": now})
    evidence = list(condition.evidence)
    if known is None:
        return Alert(
            id=f"{prefix}{new_id()}", node=condition.node, device=condition.device, kind=condition.kind,
            severity=condition.severity, state="opened", summary=condition.summary, action=condition.action,
            evidence=evidence, opened_at=now, at=now, actor=actor, runbook=f"docs/reference/alerts.md#{condition.kind}",
        )  # fmt: skip
    # The elapsed time in either direction: a clock that was set back must not prevent its renewal.
    if condition.severity == known.severity and abs(now - known.at) < RENEW_INTERVAL:
        return None
    worse = SEVERITY_RANK[condition.severity] > SEVERITY_RANK[known.severity]
    changes = {
        "state": "updated", "severity": condition.severity, "summary": condition.summary, "action": condition.action,
        "evidence": evidence, "at": now, "count": known.count + 1, "escalated": worse,
    }  # fmt: skip
    return known.model_copy(update=changes | ({"worsened_at": now} if worse else {}))


@dataclass
class ConditionAlerts:
    """The alerts of one publisher. `mine` selects the open ones to continue with after a restart."""

    bus: Bus
    mine: Callable[[Alert], bool]
    actor: str
    prefix: str = ""
    clock: Clock = utc_now
    _published: dict[Key, Alert] = field(default_factory=dict)
    _waiting: dict[Key, list[Alert]] = field(default_factory=dict)
    _restored: bool = False
    _worst: dict[Key, Condition] = field(default_factory=dict)  # conditions noted before the open alerts were known
    _latest: list[Condition] | None = None

    def severity(self, key: Key) -> Severity | None:
        """Return the severity of an alert that is open or about to be; None where there is none."""
        known = self._known(key, self._waiting.get(key, []))
        return known.severity if known else None

    def _known(self, key: Key, waiting: list[Alert]) -> Alert | None:
        last = waiting[-1] if waiting else self._published.get(key)
        return last if last is not None and last.state != "resolved" else None

    async def settle(self, conditions: Iterable[Condition]) -> None:
        """Set what is wrong now, and publish changes. Raises UnavailableError; the next call continues."""
        self.note(conditions)
        await self.send()

    def note(self, conditions: Iterable[Condition]) -> None:
        """Set everything that is wrong now: whatever is missing here is over."""
        self._latest = list(conditions)
        if not self._restored:
            for condition in self._latest:
                before = self._worst.get(condition.key)
                if before is None or SEVERITY_RANK[condition.severity] >= SEVERITY_RANK[before.severity]:
                    self._worst[condition.key] = condition
            return
        now = self.clock()
        wanted = {condition.key: condition for condition in self._latest}
        for key in {*wanted, *self._published, *self._waiting}:
            self._note_one(key, wanted.get(key), now)

    def _note_one(self, key: Key, condition: Condition | None, now: datetime) -> None:
        waiting = self._waiting.get(key, [])
        # The first may have been published, and an alert that opened is always published. Of the other pending
        # states only the newest counts: an unpublished resolution is dropped when the condition recurs.
        while condition is not None and len(waiting) > 1 and waiting[-1].state != "opened":
            waiting.pop()
        state = next_state(self._known(key, waiting), condition, now, self.prefix, self.actor)
        if state is not None:
            self._waiting[key] = [*waiting, state]

    async def restore(self) -> None:
        """Read the open alerts, once; `send` does so too. Raises UnavailableError."""
        if self._restored:
            return
        try:
            stored = await bucket_items(self.bus.js, BUCKET, Alert)
        except BUS_ERRORS as error:
            raise UnavailableError(f"open alerts could not be read: {type(error).__name__}") from error
        self._published = {(a.node, a.device, a.kind): a for a in stored.values() if self.mine(a)}
        self._restored = True
        worst, self._worst = self._worst, {}
        latest = self._latest
        if latest is not None:
            self.note(worst.values())
            self.note(latest)

    def forget(self) -> None:
        """Forget the state: somebody else takes over; whoever resumes reads the open alerts first."""
        self._published, self._waiting, self._worst, self._latest, self._restored = {}, {}, {}, None, False

    async def send(self) -> None:
        """Publish pending states in order. Raises UnavailableError while JetStream rejects them, and keeps them."""
        await self.restore()
        for key in list(self._waiting):
            while waiting := self._waiting.get(key):
                await self._send_one(key, waiting[0])

    async def _send_one(self, key: Key, alert: Alert) -> None:
        try:
            await tell(self.bus, alert, f"{alert.id}-{alert.state}-{alert.at.isoformat()}")
        except InvalidInputError as error:
            log.warning("alert dropped", extra={"id": alert.id} | failure_fields(error))
        words = {"id": alert.id, "kind": alert.kind, "device": alert.device, "state": alert.state}
        renewed = alert.state == "updated" and not alert.escalated
        log.log(logging.INFO if renewed else logging.WARNING, "alert", extra=words | {"severity": alert.severity})
        if alert.state == "resolved":
            self._published.pop(key, None)
        else:
            self._published[key] = alert
        # Read again: more may have been noted meanwhile.
        left = self._waiting.get(key, [])[1:]
        if left:
            self._waiting[key] = left
        else:
            self._waiting.pop(key, None)

"""Publish alerts in order, with a bounded queue, and without delaying detection.

While the stream is unavailable, only the states that still matter are kept for each alert: intermediate states are
replaced by the newest, and an alert that opened and resolved unpublished is dropped when it recurs.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.errors import InvalidInputError, UnavailableError
from accelerator_autopilot.contracts.messages.alerts import Alert
from accelerator_autopilot.runtime.alert_publishing import BUCKET, tell
from accelerator_autopilot.runtime.bus import Bus
from accelerator_autopilot.runtime.supervision import beat

log = logging.getLogger(__name__)

Key = tuple[str, str, str]
MAX_WAITING = 10_000  # number of alerts, not of their states
RETRY_INTERVAL_S = 0.5
IDLE_S = 5.0


def coalesced(waiting: list[Alert], alert: Alert) -> list[Alert]:
    """Return the pending states of one key, oldest first, with one more."""
    if not waiting or waiting[-1].state == "resolved":
        # An unpublished newer alert replaces an unpublished older one.
        pair = len(waiting) >= 2 and waiting[-2].state == "opened" and waiting[-2].id == waiting[-1].id
        return [*(waiting[:-2] if pair else waiting), alert]
    last = waiting[-1]
    if alert.state == "updated":
        escalated = last.escalated or alert.escalated
        if last.state == "opened":
            return [*waiting[:-1], alert.model_copy(update={"state": "opened", "escalated": False})]
        return [*waiting[:-1], alert.model_copy(update={"escalated": escalated})]
    if alert.state == "resolved" and last.state == "updated":
        return [*waiting[:-1], alert]
    return [*waiting, alert]


@dataclass
class AlertOutbox:
    """Pending alerts; `run` publishes them forever."""

    bus: Bus
    registry: CollectorRegistry
    _waiting: OrderedDict[Key, list[Alert]] = field(default_factory=OrderedDict)
    _to_keep: dict[Key, Alert] = field(default_factory=dict)
    _tried: set[Key] = field(default_factory=set)  # alerts whose first state may have been published
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    _settled: asyncio.Condition = field(default_factory=asyncio.Condition)

    def __post_init__(self) -> None:
        waiting = Gauge("autopilot_alerts_waiting", "alerts waiting to be published", registry=self.registry)
        waiting.set_function(lambda: len(self._waiting))
        self._dropped = Counter(
            "autopilot_alerts_dropped", "alerts not published, by reason", ["reason"], registry=self.registry
        )

    def put(self, alert: Alert) -> None:
        """Queue an alert. One that does not fit a subject is dropped and counted."""
        log.info("alert", extra={"id": alert.id, "kind": alert.kind, "state": alert.state, "device": alert.device})
        if not fits(alert):
            self._dropped.labels("name too long").inc()
            log.warning("alert dropped: its names are too long for a subject", extra={"id": alert.id})
            return
        key = (alert.node, alert.device, alert.kind)
        waiting = self._waiting.get(key, [])
        if key in self._tried:
            # A state that may have been published is neither changed nor dropped.
            self._waiting[key] = [*waiting[:1], *coalesced(waiting[1:], alert)]
        else:
            self._waiting[key] = coalesced(waiting, alert)
        if len(self._waiting) > MAX_WAITING:
            self._make_room()
        self._news.set()

    def waits(self, key: Key) -> bool:
        """Whether any state of an alert is pending."""
        return key in self._waiting or key in self._to_keep

    @property
    def on_the_way(self) -> list[Key]:
        """Return the alerts that have pending states."""
        return [*self._waiting, *self._to_keep]

    def keep(self, alert: Alert) -> None:
        """Store the current state of an open alert without publishing it."""
        if fits(alert):
            self._to_keep[alert.node, alert.device, alert.kind] = alert
            self._news.set()

    async def run(self) -> None:
        """Publish pending alerts until cancelled."""
        while True:
            beat()
            self._news.clear()
            try:
                await self._publish_all()
            except UnavailableError as error:
                log.warning("alerts wait for the broker", extra={"waiting": len(self._waiting), "error": str(error)})
                await asyncio.sleep(RETRY_INTERVAL_S)
                continue
            if not self._waiting and not self._to_keep:
                await _wait(self._news.wait(), IDLE_S)

    async def settled(self, node: str, device: str, timeout_s: float) -> None:
        """Wait until nothing of a device is pending. Raises UnavailableError when that takes too long."""

        def over() -> bool:
            return not any(key[:2] == (node, device) for key in self._waiting)

        try:
            async with asyncio.timeout(timeout_s), self._settled:
                await self._settled.wait_for(over)
        except TimeoutError as error:
            raise UnavailableError(f"alerts of {device} were not confirmed within {timeout_s:g} s") from error

    async def _publish_all(self) -> None:
        while self._waiting or self._to_keep:
            for key in list(self._waiting):
                await self._publish_first(key)
            while self._to_keep:
                key = next(iter(self._to_keep))
                if key not in self._waiting:
                    await self.bus.write(BUCKET, subjects.alert_key(*key), self._to_keep[key])
                self._to_keep.pop(key, None)

    async def _publish_first(self, key: Key) -> None:
        waiting = self._waiting.get(key)
        if not waiting:
            return
        alert = waiting[0]
        self._tried.add(key)
        try:
            await tell(self.bus, alert, f"{alert.id}-{alert.state}-{alert.at.isoformat()}")
        except InvalidInputError as error:
            self._dropped.labels("refused").inc()
            log.warning("alert dropped", extra={"id": alert.id, "error": str(error)})
        self._tried.discard(key)
        left = self._waiting.get(key, [])[1:]
        if left:
            self._waiting[key] = left
        else:
            self._waiting.pop(key, None)
        beat()
        async with self._settled:
            self._settled.notify_all()

    def _make_room(self) -> None:
        """Drop pending alerts: first those that opened and resolved unpublished, then the oldest non-critical ones."""
        keys = [key for key in self._waiting if key not in self._tried] or list(self._waiting)
        unseen = next((k for k in keys if [a.state for a in self._waiting[k]] == ["opened", "resolved"]), None)
        minor = next((k for k in keys if self._waiting[k][-1].severity != "critical"), None)
        dropped = unseen or minor or keys[0]
        del self._waiting[dropped]
        self._tried.discard(dropped)
        self._dropped.labels("queue full").inc()


def fits(alert: Alert) -> bool:
    """Whether a subject and a key can hold the alert's names."""
    try:
        subject = subjects.alert(alert.severity, alert.node, alert.device)
        key = subjects.alert_key(alert.node, alert.device, alert.kind)
    except ValueError:
        return False
    return max(len(subject), len(key)) <= subjects.MOST_SUBJECT_BYTES


async def _wait(work: Awaitable[object], timeout_s: float) -> None:
    """Wait for an event, with a timeout."""
    try:
        async with asyncio.timeout(timeout_s):
            await work
    except TimeoutError:
        return

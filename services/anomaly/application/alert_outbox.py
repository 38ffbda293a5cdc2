"""Publishes alerts: in order for each alert, with a bounded queue, and without delaying detection.

While the stream refuses them, of each alert only what is still worth telling is kept: what went on in between gives way
to its newest state, and an alert that opened and ended unseen is dropped when the same comes again.
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
MOST_WAITING = 10_000  # alerts, not states of them
AGAIN_AFTER_S = 0.5
IDLE_S = 5.0
MOST_SUBJECT_BYTES = 1023


def coalesced(waiting: list[Alert], alert: Alert) -> list[Alert]:
    """The states of one key still to be told, oldest first, with one more."""
    if not waiting or waiting[-1].state == "resolved":
        # The newest alert that nobody heard of replaces an older one that nobody heard of.
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
    """What waits to be published; `run` publishes it, for ever."""

    bus: Bus
    registry: CollectorRegistry
    _waiting: OrderedDict[Key, list[Alert]] = field(default_factory=OrderedDict)
    _to_keep: dict[Key, Alert] = field(default_factory=dict)
    _tried: set[Key] = field(default_factory=set)  # whose first state may have arrived
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    _settled: asyncio.Condition = field(default_factory=asyncio.Condition)

    def __post_init__(self) -> None:
        waiting = Gauge("autopilot_alerts_waiting", "alerts waiting to be published", registry=self.registry)
        waiting.set_function(lambda: len(self._waiting))
        self._dropped = Counter(
            "autopilot_alerts_dropped", "alerts not published, by reason", ["reason"], registry=self.registry
        )

    def put(self, alert: Alert) -> None:
        """Publish it as soon as may be. One that no subject can carry is dropped and counted."""
        log.info("alert", extra={"id": alert.id, "kind": alert.kind, "state": alert.state, "device": alert.device})
        if not fits(alert):
            self._dropped.labels("name too long").inc()
            log.warning("alert dropped: its names are too long for a subject", extra={"id": alert.id})
            return
        key = (alert.node, alert.device, alert.kind)
        waiting = self._waiting.get(key, [])
        if key in self._tried:
            # A state that may have arrived is neither changed nor dropped.
            self._waiting[key] = [*waiting[:1], *coalesced(waiting[1:], alert)]
        else:
            self._waiting[key] = coalesced(waiting, alert)
        if len(self._waiting) > MOST_WAITING:
            self._make_room()
        self._news.set()

    def waits(self, key: Key) -> bool:
        """Whether anything of an alert is on its way."""
        return key in self._waiting or key in self._to_keep

    @property
    def on_the_way(self) -> list[Key]:
        """Of which alerts something is on its way."""
        return [*self._waiting, *self._to_keep]

    def keep(self, alert: Alert) -> None:
        """Store an open alert as it is now, without telling anybody."""
        if fits(alert):
            self._to_keep[alert.node, alert.device, alert.kind] = alert
            self._news.set()

    async def run(self) -> None:
        """Publish what waits, until cancelled."""
        while True:
            beat()
            self._news.clear()
            try:
                await self._publish_all()
            except UnavailableError as error:
                log.warning("alerts wait for the broker", extra={"waiting": len(self._waiting), "error": str(error)})
                await asyncio.sleep(AGAIN_AFTER_S)
                continue
            if not self._waiting and not self._to_keep:
                await _wait(self._news.wait(), IDLE_S)

    async def settled(self, node: str, device: str, timeout_s: float) -> None:
        """Wait until nothing of a device is on its way. Raises UnavailableError when that takes too long."""

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
        """Of too many, first what opened and ended unseen goes, then the oldest that is not critical."""
        keys = [key for key in self._waiting if key not in self._tried] or list(self._waiting)
        unseen = next((k for k in keys if [a.state for a in self._waiting[k]] == ["opened", "resolved"]), None)
        minor = next((k for k in keys if self._waiting[k][-1].severity != "critical"), None)
        dropped = unseen or minor or keys[0]
        del self._waiting[dropped]
        self._tried.discard(dropped)
        self._dropped.labels("too many wait").inc()


def fits(alert: Alert) -> bool:
    """Whether a subject and a key can carry the alert's names."""
    try:
        subject = subjects.alert(alert.severity, alert.node, alert.device)
        key = subjects.alert_key(alert.node, alert.device, alert.kind)
    except ValueError:
        return False
    return max(len(subject), len(key)) <= MOST_SUBJECT_BYTES


async def _wait(work: Awaitable[object], timeout_s: float) -> None:
    """Wait for something, but not for long."""
    try:
        async with asyncio.timeout(timeout_s):
            await work
    except TimeoutError:
        return

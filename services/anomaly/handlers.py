"""Frames and events in, alerts out."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from fnmatch import fnmatchcase

import numpy as np

from services.anomaly.domain.alert_book import AlertBook
from services.anomaly.domain.batching import batches
from services.anomaly.domain.finding import EventDetector, Finding
from services.anomaly.domain.watch import Watch
from shared.clock import Clock
from shared.frames import TelemetryFrame
from shared.messages.alerts import Alert
from shared.messages.telemetry import DeviceEvent, NodeInventory

log = logging.getLogger(__name__)


@dataclass
class Detection:
    """All detectors, the book of alerts, and where its changes go."""

    watch: Watch
    detectors: list[EventDetector]
    book: AlertBook
    publish: Callable[[Alert], Awaitable[None]]
    clock: Clock
    shadow_kinds: Sequence[str] = ()
    _drivers: dict[tuple[str, str], str | None] = field(default_factory=dict)

    async def on_frames(self, frames: Sequence[TelemetryFrame]) -> None:
        """Show every tick of some frames to the watch."""
        heard_s = self.clock().timestamp()
        for batch in batches(self.watch, frames):
            heard = np.full(len(batch.slots), heard_s)
            await self._take(self.watch.rows(batch.slots, batch.at_s, batch.values, batch.period_s, heard))

    async def on_event(self, event: DeviceEvent) -> None:
        """Show an event to every detector."""
        await self._take(f for detector in self.detectors for f in detector.on_event(event))

    async def on_time(self, now: datetime) -> None:
        """Let every detector see that time passed."""
        await self._take(f for detector in self.detectors for f in detector.on_time(now))
        await self._take(self.watch.time(now.timestamp()))

    def on_inventory(self, inventory: NodeInventory) -> None:
        """A device with another driver is learnt anew."""
        for device in inventory.devices:
            key = (inventory.node, device.device)
            if self._drivers.get(key, device.driver) != device.driver:
                self.watch.forget(*key)
            self._drivers[key] = device.driver

    def restore(self, alerts: Sequence[Alert]) -> None:
        """Go on with the alerts that were open before a restart."""
        self.book = AlertBook.restore(alerts)
        for alert in alerts:
            for detector in self.detectors:
                detector.restore(alert)
            self.watch.restore(alert)

    async def _take(self, findings: Iterable[Finding]) -> None:
        now = self.clock()
        for finding in findings:
            alert = self.book.observe(finding, now)
            if alert is None:
                continue
            if any(fnmatchcase(alert.kind, pattern) for pattern in self.shadow_kinds):
                told = {"id": alert.id, "kind": alert.kind, "state": alert.state, "device": alert.device}
                log.info("alert in the shadow", extra=told | {"summary": alert.summary})
            else:
                self.watch.note_alerts(alert.node, alert.device, self.book)
                await self.publish(alert)

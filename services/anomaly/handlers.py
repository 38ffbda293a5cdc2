"""Frames and events in, alerts out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

from services.anomaly.domain.alert_book import AlertBook
from services.anomaly.domain.finding import Detector, Finding, Tick
from shared.clock import Clock
from shared.frames import TelemetryFrame
from shared.messages.alerts import Alert
from shared.messages.telemetry import DeviceEvent


@dataclass
class Detection:
    """All detectors, the book of alerts, and where its changes go."""

    detectors: list[Detector]
    book: AlertBook
    publish: Callable[[Alert], Awaitable[None]]
    clock: Clock

    async def on_frame(self, frame: TelemetryFrame) -> None:
        """Show the newest tick of a frame to every detector."""
        at = frame.tick_time(frame.ticks - 1)
        tick = Tick(frame.node, at, frame.period_s, frame.latest(), frame.simulated)
        await self._take(f for detector in self.detectors for f in detector.on_tick(tick))

    async def on_event(self, event: DeviceEvent) -> None:
        """Show an event to every detector."""
        await self._take(f for detector in self.detectors for f in detector.on_event(event))

    async def on_time(self, now: datetime) -> None:
        """Let every detector see that time passed."""
        await self._take(f for detector in self.detectors for f in detector.on_time(now))

    async def _take(self, findings: Iterable[Finding]) -> None:
        now = self.clock()
        for finding in findings:
            alert = self.book.observe(finding, now)
            if alert is not None:
                await self.publish(alert)

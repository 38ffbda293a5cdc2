"""Frames as they come, handed on in bunches: one message at a time would cost more than the detection."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from nats.aio.msg import Msg
from prometheus_client import CollectorRegistry, Counter, Histogram

from shared.errors import InvalidInputError
from shared.frames import TelemetryFrame, decode

log = logging.getLogger(__name__)

GATHER_S = 0.03
MOST_FRAMES = 4_000


@dataclass
class Intake:
    """Frames that wait, and whoever looks at them."""

    look: Callable[[list[TelemetryFrame]], Awaitable[None]]
    registry: CollectorRegistry
    _waiting: list[Msg] = field(default_factory=list)
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._rejected = Counter("autopilot_frames_rejected", "frames that are none", registry=self.registry)
        self._looked = Counter("autopilot_rows_looked_at", "device ticks looked at", registry=self.registry)
        self._took = Histogram("autopilot_detection_seconds", "time to look at a bunch", registry=self.registry)

    async def take(self, message: Msg) -> None:
        """One frame arrived."""
        self._waiting.append(message)
        self._arrived.set()

    async def run(self) -> None:
        """Hand frames on until cancelled."""
        while True:
            await self._arrived.wait()
            await asyncio.sleep(GATHER_S)
            self._arrived.clear()
            while self._waiting:
                taken, self._waiting = self._waiting[:MOST_FRAMES], self._waiting[MOST_FRAMES:]
                frames = self._decoded(taken)
                with self._took.time():
                    await self.look(frames)
                self._looked.inc(sum(frame.ticks * len(frame.devices) for frame in frames))
                # Alerts, events and health have their turn between bunches.
                await asyncio.sleep(0)

    def _decoded(self, taken: list[Msg]) -> list[TelemetryFrame]:
        frames = []
        for message in taken:
            try:
                frames.append(decode(message.data, message.subject))
            except InvalidInputError as error:
                self._rejected.inc()
                log.warning("frame rejected", extra={"error": str(error)})
        return frames

"""Receive frames and process them in batches; one message at a time would cost more than detection itself.

The queue is bounded in bytes and each frame in its size, so that no input can exhaust memory or block the event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from nats.aio.msg import Msg
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from accelerator_autopilot.contracts.errors import InvalidInputError
from accelerator_autopilot.contracts.frames import TelemetryFrame, decode
from accelerator_autopilot.runtime.poison_messages import PoisonRule
from accelerator_autopilot.runtime.supervision import beat

GATHER_S = 0.03
IDLE_S = 1.0
MAX_FRAMES = 4_000
MAX_BYTES = 64 * 2**20
# An hour at 1 Hz; agents send one tick or a few seconds per frame.
MAX_TICKS, MAX_ROWS = 3_600, 100_000
Waiting = tuple[str, bytes]


@dataclass
class FrameReceiver:
    """A queue of frames, and its consumer."""

    check: Callable[[list[TelemetryFrame]], Awaitable[None]]
    registry: CollectorRegistry
    poison: PoisonRule
    _waiting: deque[Waiting] = field(default_factory=deque)
    _bytes: int = 0
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._rejected = Counter("autopilot_frames_rejected", "invalid frames", registry=self.registry)
        self._dropped = Counter(
            "autopilot_frames_dropped", "frames dropped because the queue was full", registry=self.registry
        )
        self._looked = Counter(
            "autopilot_detection_rows", "rows (one device at one tick) checked by the detectors", registry=self.registry
        )
        self._took = Histogram("autopilot_detection_seconds", "time to check one batch of rows", registry=self.registry)
        waiting = Gauge(
            "autopilot_frames_waiting_bytes", "size of the frames waiting to be checked", registry=self.registry
        )
        waiting.set_function(lambda: self._bytes)

    async def take(self, message: Msg) -> None:
        """Queue a frame; when the queue is full the oldest are dropped, since they say least about the present."""
        self._waiting.append((message.subject, message.data))
        self._bytes += len(message.data)
        while self._bytes > MAX_BYTES and len(self._waiting) > 1:
            self._bytes -= len(self._waiting.popleft()[1])
            self._dropped.inc()
        self._arrived.set()

    async def run(self) -> None:
        """Process frames until cancelled."""
        while True:
            beat()
            try:
                async with asyncio.timeout(IDLE_S):
                    await self._arrived.wait()
            except TimeoutError:
                continue
            await asyncio.sleep(GATHER_S)
            self._arrived.clear()
            while self._waiting:
                frames = self._bunch()
                with self._took.time():
                    await self._look(frames)
                self._looked.inc(sum(frame.ticks * len(frame.devices) for frame in frames))
                beat()
                # Alerts, events and health checks run between batches.
                await asyncio.sleep(0)

    async def _look(self, frames: list[TelemetryFrame]) -> None:
        """Process a batch or, when that fails, each half by itself: one bad frame spoils no other."""
        try:
            await self.check(frames)
        except Exception as error:  # noqa: BLE001  whatever a strange frame makes of our own code
            if len(frames) == 1:
                self._rejected.inc()
                self.poison.drop("anomaly frames", error)
                return
            half = len(frames) // 2
            await self._look(frames[:half])
            await self._look(frames[half:])

    def _bunch(self) -> list[TelemetryFrame]:
        """Return the next frames, no more than can be processed quickly."""
        frames: list[TelemetryFrame] = []
        rows = 0
        while self._waiting and len(frames) < MAX_FRAMES and rows < MAX_ROWS:
            subject, data = self._waiting.popleft()
            self._bytes -= len(data)
            try:
                frame = bounded(decode(data, subject))
            except Exception as error:  # noqa: BLE001  whatever a frame makes of itself
                self._rejected.inc()
                self.poison.drop("anomaly frames", error)
                continue
            frames.append(frame)
            rows += frame.ticks * len(frame.devices)
        return frames


def bounded(frame: TelemetryFrame) -> TelemetryFrame:
    """Return the frame if it is small enough to process. Raises InvalidInputError."""
    if frame.ticks > MAX_TICKS or frame.ticks * len(frame.devices) > MAX_ROWS:
        size = f"{frame.ticks} x {len(frame.devices)}"
        raise InvalidInputError("ticks x devices", size, f"must not exceed {MAX_TICKS} ticks and {MAX_ROWS} rows")
    return frame

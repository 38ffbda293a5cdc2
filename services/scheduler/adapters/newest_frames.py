"""Frames as they come: the bytes of each node's newest wait until a round reads what it decides from."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from nats.aio.msg import Msg
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter

from services.scheduler.domain.device_columns import DeviceColumns
from shared.errors import InvalidInputError
from shared.frame_layout import FrameLayout
from shared.frames import decode
from shared.turns import Turns

log = logging.getLogger(__name__)

MOST_BYTES = 256 * 2**20
BUNCH = 500


@dataclass
class _Stack:
    metrics: tuple[str, ...]
    ticks: list[bytes] = field(default_factory=list)
    rows: list[NDArray[np.intp]] = field(default_factory=list)
    at_s: list[float] = field(default_factory=list)


@dataclass
class NewestFrames:
    """What every node said last. `clock` tells seconds since 1970."""

    columns: DeviceColumns
    clock: Callable[[], float]
    stale_after_s: float
    registry: CollectorRegistry
    _waiting: dict[str, tuple[float, bytes]] = field(default_factory=dict)  # by subject
    _layouts: dict[str, FrameLayout] = field(default_factory=dict)
    _heard_s: dict[str, float] = field(default_factory=dict)
    _bytes: int = 0

    def __post_init__(self) -> None:
        self._rejected = Counter("autopilot_frames_rejected", "frames that are none", registry=self.registry)
        self._dropped = Counter("autopilot_frames_dropped", "frames too many to wait", registry=self.registry)

    async def take(self, message: Msg) -> None:
        """One frame arrived. One that was not read before is of no use any more."""
        self.put(message.subject, message.data)

    def put(self, subject: str, data: bytes) -> None:
        """The same, by its subject."""
        before = self._waiting.pop(subject, None)
        self._bytes += len(data) - (len(before[1]) if before else 0)
        self._waiting[subject] = self.clock(), data
        while self._bytes > MOST_BYTES and len(self._waiting) > 1:
            oldest = next(iter(self._waiting))
            self._bytes -= len(self._waiting.pop(oldest)[1])
            self._dropped.inc()

    async def read(self) -> None:
        """Write what came since the last round into the columns, and forget nodes that fell silent."""
        turns, now_s = Turns(), self.clock()
        waiting, self._waiting, self._bytes = self._waiting, {}, 0
        while waiting:
            bunch = [(subject, *waiting.pop(subject)) for subject in list(islice(waiting, BUNCH))]
            self._read(bunch, now_s)
            await turns.give()
        silent = [subject for subject, at_s in self._heard_s.items() if now_s - at_s > self.stale_after_s]
        for subject in silent:
            del self._heard_s[subject]
            self.columns.forget(self._layouts.pop(subject).node)
            await turns.give()

    def _read(self, bunch: Sequence[tuple[str, float, bytes]], now_s: float) -> None:
        """Frames of the same shape are written at once."""
        # By the identity of their names, which `decode` keeps once: to hash them for each frame would cost more.
        alike: dict[tuple[int, int], _Stack] = {}
        for subject, at_s, data in bunch:
            layout = self._layouts.get(subject)
            tick = layout.last_tick(data) if layout is not None else None
            if layout is None or tick is None:
                try:
                    frame = decode(data, subject)
                except (InvalidInputError, ValueError) as error:
                    self._rejected.inc()
                    log.warning("frame rejected", extra={"error": str(error)})
                    continue
                layout = self._layouts[subject] = FrameLayout.of(data, frame)
                tick = frame.values[-1].tobytes()
            # A clock that was set back must not keep a reading for ever.
            heard_s = self._heard_s[subject] = min(at_s, now_s)
            shape = len(layout.devices), id(layout.metrics)
            stack = alike.get(shape)
            if stack is None:
                stack = alike[shape] = _Stack(layout.metrics)
            stack.ticks.append(tick)
            stack.rows.append(self.columns.rows_of(layout.node, layout.devices))
            stack.at_s.append(heard_s)
        for (devices, _), stack in alike.items():
            block = np.frombuffer(b"".join(stack.ticks), "<f4").reshape(-1, len(stack.metrics))
            self.columns.write(np.concatenate(stack.rows), block, stack.metrics, np.repeat(stack.at_s, devices))

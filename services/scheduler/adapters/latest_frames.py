"""Keep each node's newest frame as bytes until a round decodes what it decides from."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from nats.aio.msg import Msg
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter

from accelerator_autopilot.contracts.errors import InvalidInputError
from accelerator_autopilot.contracts.frame_decoder import FrameLayout
from accelerator_autopilot.contracts.frames import TelemetryFrame, decode
from accelerator_autopilot.runtime.cooperative_loops import CooperativeLoop
from accelerator_autopilot.scheduler.adapters.bulk_frame_decoding import FrameGroup, Waiting
from accelerator_autopilot.scheduler.domain.latest_readings import LatestReadings

log = logging.getLogger(__name__)

MAX_BYTES = 256 * 2**20
BLOCK = 500  # frames of one format that are decoded together: as many as fit a core's cache
FRAMES_PER_SLICE = 50  # frames that are decoded one by one


@dataclass
class LatestFrames:
    """The newest frame of every node. `clock` returns seconds since 1970.

    A frame of an unknown node, or one whose format changed, is decoded alone; all others are decoded in blocks.
    """

    columns: LatestReadings
    clock: Callable[[], float]
    stale_after_s: float
    registry: CollectorRegistry
    _waiting: Waiting = field(default_factory=dict)
    _groups: dict[tuple[int, ...], FrameGroup] = field(default_factory=dict)
    _of: dict[str, FrameGroup] = field(default_factory=dict)  # by subject
    _bytes: int = 0

    def __post_init__(self) -> None:
        self._rejected = Counter("autopilot_frames_rejected", "invalid frames", registry=self.registry)
        self._dropped = Counter(
            "autopilot_frames_dropped", "frames dropped because the queue was full", registry=self.registry
        )

    async def take(self, message: Msg) -> None:
        """Receive one frame; an unread older one of its node is dropped."""
        self.put(message.subject, message.data)

    def put(self, subject: str, data: bytes) -> None:
        """Receive a frame by its subject."""
        before = self._waiting.pop(subject, None)
        self._bytes += len(data) - (len(before[1]) if before else 0)
        self._waiting[subject] = self.clock(), data
        while self._bytes > MAX_BYTES and len(self._waiting) > 1:
            oldest = next(iter(self._waiting))
            self._bytes -= len(self._waiting.pop(oldest)[1])
            self._dropped.inc()

    async def read(self) -> None:
        """Decode what arrived since the last round into the columns, and forget nodes that fell silent."""
        turns, now_s = CooperativeLoop(), self.clock()
        waiting, self._waiting, self._bytes = self._waiting, {}, 0
        for group in self._groups.values():
            for start in range(0, len(group), BLOCK):
                taken = group.take(waiting, start, BLOCK, now_s)
                if taken is not None:
                    self.columns.write(taken.rows, taken.readings, taken.at_s)
                await turns.give()
        while waiting:
            self._unpack(
                [(subject, *waiting.pop(subject)) for subject in list(islice(waiting, FRAMES_PER_SLICE))], now_s
            )
            await turns.give()
        for subject in [s for group in self._groups.values() for s in group.silent(now_s - self.stale_after_s)]:
            self.columns.forget(self._of.pop(subject).leave(subject))
            await turns.give()
        self._groups = {key: group for key, group in self._groups.items() if len(group)}

    def _unpack(self, bunch: Sequence[tuple[str, float, bytes]], now_s: float) -> None:
        """Decode frames one by one; frames of the same shape are written together."""
        readings: dict[tuple[int, int], list[tuple[TelemetryFrame, NDArray[np.intp], float]]] = {}
        for subject, at_s, data in bunch:
            try:
                frame = decode(data, subject)
            except (InvalidInputError, ValueError) as error:
                self._rejected.inc()
                log.warning("frame rejected", extra={"error": str(error)})
                continue
            heard_s, rows = min(at_s, now_s), self.columns.rows_of(frame.node, frame.devices)
            readings.setdefault((len(rows), id(frame.metrics)), []).append((frame, rows, heard_s))
            layout = FrameLayout.of(data, frame)
            if subject in self._of:
                self._of[subject].leave(subject)
            key = FrameGroup.key(layout)
            if key not in self._groups:
                self._groups[key] = FrameGroup(layout, self.columns.metrics)
            self._groups[key].join(subject, layout, rows, heard_s)
            self._of[subject] = self._groups[key]
        for (devices, _), frames in readings.items():
            block = np.concatenate([frame.values[-1] for frame, _, _ in frames])
            columns = {name: block[:, place] for place, name in enumerate(frames[0][0].metrics)}
            at_s_each = np.repeat([heard_s for _, _, heard_s in frames], devices)
            self.columns.write(np.concatenate([rows for _, rows, _ in frames]), columns, at_s_each)

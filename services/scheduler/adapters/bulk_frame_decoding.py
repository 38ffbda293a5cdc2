"""Decode frames that differ only in node name, time and values as one block of bytes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from accelerator_autopilot.contracts.frame_decoder import TIME_BYTES, FrameLayout
from accelerator_autopilot.scheduler.domain.latest_readings import Floats
from accelerator_autopilot.scheduler.domain.pool_arrays import Doubles

Waiting = dict[str, tuple[float, bytes]]  # arrival time and bytes, by subject
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Taken:
    """Decoded frames of a block: [rows] by metric, and their times."""

    rows: NDArray[np.intp]
    readings: dict[str, Floats]
    at_s: Doubles


class FrameGroup:
    """Nodes by the subject of their frames, with the bytes around the values, and the rows of their devices."""

    def __init__(self, like: FrameLayout, metrics: Collection[str]) -> None:
        self._like = like
        self._places = {name: place for place, name in enumerate(like.metrics) if name in metrics}
        self._layouts: dict[str, FrameLayout] = {}
        self._rows_of: dict[str, NDArray[np.intp]] = {}
        self._heard: dict[str, float] = {}  # nodes that joined since the block was arranged
        self._subjects: list[str] = []
        self._rows = np.zeros((0, len(like.devices)), np.intp)
        self._heads, self._middles = (np.zeros((0, len(part)), np.uint8) for part in (like.head, like.middle))
        self._heard_s = np.zeros(0)
        self._arranged = True

    @staticmethod
    def key(layout: FrameLayout) -> tuple[int, ...]:
        """Return a key that is equal for frames that can be decoded as one block."""
        # Names by the identity of their tuple, which `decode` caches: hashing them for each node would cost
        # more.
        around = len(layout.head), len(layout.middle), layout.values_end, layout.tick_bytes
        return layout.length, *around, len(layout.devices), id(layout.metrics)

    def __len__(self) -> int:
        """Return the number of nodes."""
        return len(self._layouts)

    def join(self, subject: str, layout: FrameLayout, rows: NDArray[np.intp], heard_s: float) -> None:
        """Add a node whose frame was decoded, so that its next frames are decoded with the others'."""
        self._layouts[subject], self._rows_of[subject], self._heard[subject] = layout, rows, heard_s
        self._arranged = False

    def leave(self, subject: str) -> str:
        """Remove a node whose frames changed or stopped; returns its name."""
        self._arranged = False
        self._heard.pop(subject, None)
        del self._rows_of[subject]
        return self._layouts.pop(subject).node

    def silent(self, since_s: float) -> list[str]:
        """Return nodes that have not been heard since then."""
        self._arrange()
        return [self._subjects[place] for place in np.flatnonzero(self._heard_s < since_s).tolist()]

    def take(self, waiting: Waiting, start: int, most: int, now_s: float) -> Taken | None:
        """Decode up to `most` nodes from a position on; frames whose format changed stay in the queue."""
        self._arrange()
        if self._like.length < 0:
            return None
        subjects = self._subjects[start : start + most]
        places, frames, at_s = self._fitting(waiting, subjects, start)
        if not frames:
            return None
        joined, length = b"".join(frames), self._like.length
        same = self._same(np.frombuffer(joined, np.uint8).reshape(-1, length), places)
        values: Floats = np.ndarray(
            (len(frames), len(self._like.devices), len(self._like.metrics)), "<f4", joined,
            self._like.values_end - self._like.tick_bytes, (length, 4 * len(self._like.metrics), 4),
        )  # fmt: skip
        if not same.all():
            for place, fits, frame, came_s in zip(places.tolist(), same.tolist(), frames, at_s, strict=True):
                if not fits:
                    waiting[self._subjects[place]] = came_s, frame
            places, values = places[same], values[same]
        # A clock that was set back must not keep a reading valid forever.
        heard_s = np.minimum(np.array(at_s)[same], now_s)
        self._heard_s[places] = heard_s
        readings = {name: values[:, :, place].reshape(-1) for name, place in self._places.items()}
        return Taken(self._rows[places].reshape(-1), readings, np.repeat(heard_s, len(self._like.devices)))

    def _fitting(
        self, waiting: Waiting, subjects: Sequence[str], start: int
    ) -> tuple[NDArray[np.intp], list[bytes], list[float]]:
        """Remove frames of the right length from the queue, and return them with their positions."""
        places, frames, at_s, length = [], [], [], self._like.length
        for place, subject in enumerate(subjects, start):
            frame = waiting.get(subject)
            if frame is not None and len(frame[1]) == length:
                del waiting[subject]
                places.append(place)
                at_s.append(frame[0])
                frames.append(frame[1])
        return np.array(places, np.intp), frames, at_s

    def _same(self, block: Bytes, places: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Whether the bytes around the values are unchanged."""
        head, middle = self._heads.shape[1], self._middles.shape[1]
        after_time = head + TIME_BYTES
        same: NDArray[np.bool_] = (block[:, :head] == self._heads[places]).all(axis=1)
        same &= (block[:, after_time : after_time + middle] == self._middles[places]).all(axis=1)
        return same

    def _arrange(self) -> None:
        if self._arranged:
            return
        heard = dict(zip(self._subjects, self._heard_s.tolist(), strict=True)) | self._heard
        self._subjects, self._heard = list(self._layouts), {}
        layouts = list(self._layouts.values())
        self._heads = _block([each.head for each in layouts], self._heads.shape[1])
        self._middles = _block([each.middle for each in layouts], self._middles.shape[1])
        if layouts:
            self._rows = np.stack([self._rows_of[subject] for subject in self._subjects])
        self._heard_s = np.array([heard[subject] for subject in self._subjects], float)
        self._arranged = True


def _block(parts: Sequence[bytes], length: int) -> Bytes:
    return np.frombuffer(b"".join(parts), np.uint8).reshape(len(parts), length)

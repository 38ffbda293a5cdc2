"""What was last known of every device, and each batch of rows beside it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from services.anomaly.domain.columns import COLUMN, COLUMNS

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Slots = npt.NDArray[np.int64]
Array = TypeVar("Array", bound=npt.NDArray[Any])

LONGEST_STEP_S = 3600.0


def any_of(there: Bools) -> Bools:
    """Whether any column of each row is true."""
    found: Bools = np.any(there, axis=1)
    return found


def all_of(there: Bools) -> Bools:
    """Whether every column of each row is true."""
    found: Bools = np.all(there, axis=1)
    return found


@dataclass(frozen=True)
class View:
    """Rows of one batch. Arrays are [rows, columns]; NaN is unknown.

    Each slot has one row, or one in each of several `moments`, then all slots of the first moment come first.

    `now` is what was read in this row, `held` the last known values with this row's, `before` without them.
    `peak` and `trough` are the highest and lowest values ever held. `dt_s` is the time since the slot's last row.
    """

    slots: Slots
    at_s: Doubles
    dt_s: Doubles
    now: Floats
    held: Floats
    before: Floats
    peak: Floats
    trough: Floats
    moments: int = 1

    def __len__(self) -> int:
        return len(self.slots)

    def get(self, name: str) -> Floats:
        """The last known value of a metric."""
        return self.held[:, COLUMN[name]]

    def read(self, name: str) -> Floats:
        """The value of a metric in this row, NaN where it was not read."""
        return self.now[:, COLUMN[name]]

    def highest(self, name: str) -> Floats:
        """The highest value of a metric so far."""
        return self.peak[:, COLUMN[name]]

    def lowest(self, name: str) -> Floats:
        """The lowest value of a metric so far."""
        return self.trough[:, COLUMN[name]]

    def growth(self, name: str) -> Floats:
        """What a counter gained since it was last read; a counter that fell began anew. NaN where it was not read."""
        column = COLUMN[name]
        now, before = self.now[:, column], self.before[:, column]
        gained = now - before
        return np.where(gained < 0, np.float32(0), gained).astype(np.float32)

    @property
    def each(self) -> Slots:
        """The slots, each once."""
        return self.slots[: len(self.slots) // self.moments]

    def grid(self, values: Array) -> Array:
        """Values [rows, ...] as [moments, slots, ...]."""
        shape = (self.moments, len(values) // self.moments, *values.shape[1:])
        return cast("Array", values.reshape(shape))

    @cached_property
    def busy(self) -> Bools:
        """Whether a kernel ran in half of the time or more."""
        return self.get("gpu_util_pct") >= 50.0


class History:
    """Last known values of every slot."""

    def __init__(self) -> None:
        self._held = np.empty((0, len(COLUMNS)), np.float32)
        self._peak, self._trough = self._held.copy(), self._held.copy()
        self._at_s = np.empty(0)

    def grow(self, slots: int) -> None:
        """Have at least this many slots."""
        more = slots - len(self._at_s)
        if more > 0:
            more = max(more, len(self._at_s))
            unknown = np.full((more, len(COLUMNS)), np.nan, np.float32)
            self._held = np.concatenate([self._held, unknown])
            self._peak = np.concatenate([self._peak, unknown])
            self._trough = np.concatenate([self._trough, unknown])
            self._at_s = np.concatenate([self._at_s, np.full(more, np.nan)])

    def forget(self, slots: Slots) -> None:
        """Know nothing of these slots."""
        for values in (self._held, self._peak, self._trough):
            values[slots] = np.nan

    def held(self, slot: int) -> Floats:
        """The last known values of a slot."""
        values: Floats = self._held[slot]
        return values

    def advance(self, slots: Slots, at_s: Doubles, now: Floats) -> View:
        """Take a batch in. A clock that steps back counts as no time, a long gap as at most an hour."""
        before = self._held[slots]
        held = np.where(np.isnan(now), before, now)
        peak, trough = np.fmax(self._peak[slots], now), np.fmin(self._trough[slots], now)
        dt_s = np.nan_to_num(np.clip(at_s - self._at_s[slots], 0.0, LONGEST_STEP_S))
        self._held[slots], self._peak[slots], self._trough[slots], self._at_s[slots] = held, peak, trough, at_s
        return View(slots, at_s, dt_s, now, held, before, peak, trough)

    def advance_many(self, slots: Slots, at_s: Doubles, now: Floats) -> View:
        """Take in rows of several moments: `at_s` [moments, slots], `now` [moments, slots, COLUMNS]."""
        moments, width = at_s.shape
        read = np.concatenate([self._held[slots][None], now])
        told = ~np.isnan(read).all(axis=(0, 1))
        whole = np.full(read.shape, np.nan, np.float32)
        whole[:, :, told] = _last_known(read[:, :, told])
        peak, trough = whole.copy(), whole.copy()
        for extreme, ever, function in ((peak, self._peak, np.fmax), (trough, self._trough, np.fmin)):
            extreme[0] = ever[slots]
            extreme[:, :, told] = function.accumulate(
                np.concatenate([ever[slots][None], now])[:, :, told], axis=0, dtype=np.float32
            )
        steps = np.diff(at_s, axis=0, prepend=self._at_s[slots][None])
        dt_s = np.nan_to_num(np.clip(steps, 0.0, LONGEST_STEP_S))
        self._held[slots], self._peak[slots], self._trough[slots] = whole[-1], peak[-1], trough[-1]
        self._at_s[slots] = at_s[-1]
        flat = (moments * width, len(COLUMNS))
        return View(
            np.tile(slots, moments), at_s.ravel(), dt_s.ravel(), now.reshape(flat), whole[1:].reshape(flat),
            whole[:-1].reshape(flat), peak[1:].reshape(flat), trough[1:].reshape(flat), moments,
        )  # fmt: skip


def _last_known(values: Floats) -> Floats:
    """Along the first axis, what was last known in place of what is unknown."""
    rows = np.arange(len(values)).reshape(-1, 1, 1)
    newest = np.maximum.accumulate(np.where(np.isnan(values), 0, rows), axis=0)
    found: Floats = np.take_along_axis(values, newest, axis=0)
    return found

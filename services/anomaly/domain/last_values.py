"""The last known values of every device, and each batch of rows beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from accelerator_autopilot.anomaly.domain.metric_columns import COLUMN, COLUMNS

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Slots = npt.NDArray[np.int64]
Array = TypeVar("Array", bound=npt.NDArray[Any])

MAX_STEP_S = 3600.0
EVERY: Slots = np.arange(len(COLUMNS))


def any_of(there: Bools) -> Bools:
    """Return whether any column of each row is true."""
    found: Bools = np.any(there, axis=1)
    return found


def all_of(there: Bools) -> Bools:
    """Return whether every column of each row is true."""
    found: Bools = np.all(there, axis=1)
    return found


@dataclass(frozen=True)
class View:
    """Rows of one batch. Arrays are [rows, columns]; NaN is unknown.

    Each slot has one row, or one in each of several `moments`, with all slots of the first moment first. `now` is
    what was read in this row, `held` the last known values including this row's, `before` without them. `peak` and
    `trough` are the highest and lowest values ever held. `dt_s` is the time since the slot's last row. `places`
    maps COLUMNS to the columns of these arrays: a block of many moments only contains columns that were ever read.
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
    places: Slots = field(default_factory=lambda: EVERY)

    def __len__(self) -> int:
        return len(self.slots)

    def get(self, name: str) -> Floats:
        """Return the last known value of a metric."""
        return self._column(self.held, name)

    def read(self, name: str) -> Floats:
        """Return the value of a metric in this row, NaN where it was not read."""
        return self._column(self.now, name)

    def highest(self, name: str) -> Floats:
        """Return the highest value of a metric so far."""
        return self._column(self.peak, name)

    def lowest(self, name: str) -> Floats:
        """Return the lowest value of a metric so far."""
        return self._column(self.trough, name)

    def growth(self, name: str) -> Floats:
        """Return a counter's increase since its last reading; a counter that fell restarted.

        NaN where it was not read.
        """
        gained = self._column(self.now, name) - self._column(self.before, name)
        return np.where(gained < 0, np.float32(0), gained)

    def pick(self, values: Floats, columns: Sequence[int]) -> Floats:
        """Return some of COLUMNS of `now`, `held`, `before`, `peak` or `trough`, [rows, columns]."""
        picked: Floats = values[:, self.places[list(columns)]]
        return picked

    def reported(self) -> Bools:
        """Return which of COLUMNS any of the rows has read."""
        unread: Bools = np.all(np.isnan(self.now), axis=0)
        reported: Bools = ~unread[self.places]
        return reported

    def _column(self, values: Floats, name: str) -> Floats:
        column: Floats = values[:, self.places[COLUMN[name]]]
        return column

    @property
    def each(self) -> Slots:
        """The slots, each once."""
        return self.slots[: len(self.slots) // self.moments]

    def grid(self, values: Array) -> Array:
        """Reshape values [rows, ...] to [moments, slots, ...]."""
        shape = (self.moments, len(values) // self.moments, *values.shape[1:])
        return cast("Array", values.reshape(shape))

    @cached_property
    def busy(self) -> Bools:
        """Whether a kernel ran in half of the time or more."""
        return self.get("gpu_util_pct") >= 50.0


class History:
    """The last known values of every slot."""

    def __init__(self) -> None:
        self._held = np.empty((0, len(COLUMNS)), np.float32)
        self._peak, self._trough = self._held.copy(), self._held.copy()
        self._at_s = np.empty(0)

    def grow(self, slots: int) -> None:
        """Grow to at least this many slots."""
        more = slots - len(self._at_s)
        if more > 0:
            more = max(more, len(self._at_s))
            unknown = np.full((more, len(COLUMNS)), np.nan, np.float32)
            self._held = np.concatenate([self._held, unknown])
            self._peak = np.concatenate([self._peak, unknown])
            self._trough = np.concatenate([self._trough, unknown])
            self._at_s = np.concatenate([self._at_s, np.full(more, np.nan)])

    def forget(self, slots: Slots) -> None:
        """Forget the values of these slots."""
        for values in (self._held, self._peak, self._trough):
            values[slots] = np.nan

    def held(self, slot: int) -> Floats:
        """Return the last known values of a slot."""
        values: Floats = self._held[slot]
        return values

    def advance(self, slots: Slots, at_s: Doubles, now: Floats) -> View:
        """Process a batch. A clock that steps back counts as no time, a long gap as at most an hour."""
        before = self._held[slots]
        held = np.where(np.isnan(now), before, now)
        peak, trough = np.fmax(self._peak[slots], now), np.fmin(self._trough[slots], now)
        dt_s = np.nan_to_num(np.clip(at_s - self._at_s[slots], 0.0, MAX_STEP_S))
        self._held[slots], self._peak[slots], self._trough[slots], self._at_s[slots] = held, peak, trough, at_s
        return View(slots, at_s, dt_s, now, held, before, peak, trough)

    def advance_many(self, slots: Slots, at_s: Doubles, now: Floats, columns: Slots) -> View:
        """Process rows of several moments: `at_s` [moments, slots], `now` [columns, moments, slots]."""
        moments, width = at_s.shape
        unknown: Bools = np.all(np.isnan(self._held[slots]), axis=0)
        known = ~unknown
        known[columns] = True
        reported = np.flatnonzero(known)
        # One more column, which is always unknown, stands for all others.
        places = np.full(len(COLUMNS), len(reported))
        places[reported] = np.arange(len(reported))
        read = np.full((len(reported) + 1, moments + 1, width), np.nan, np.float32)
        read[places[columns], 1:] = now
        rows = []
        for ever, function in ((self._held, _last_known), (self._peak, _highest), (self._trough, _lowest)):
            read[:-1, 0] = ever[slots][:, reported].T
            rows.append(function(read))
            ever[np.ix_(slots, reported)] = rows[-1][:-1, -1].T
        whole, peak, trough = rows
        steps = np.diff(at_s, axis=0, prepend=self._at_s[slots][None])
        dt_s = np.nan_to_num(np.clip(steps, 0.0, MAX_STEP_S))
        self._at_s[slots] = at_s[-1]

        def flat(values: Floats) -> Floats:
            # Each column's rows are contiguous, since rules read columns.
            return values.reshape(len(values), moments * width).T

        return View(
            np.tile(slots, moments), at_s.ravel(), dt_s.ravel(), flat(read[:, 1:]), flat(whole[:, 1:]),
            flat(whole[:, :-1]), flat(peak[:, 1:]), flat(trough[:, 1:]), moments, places,
        )  # fmt: skip


def _last_known(values: Floats) -> Floats:
    """Forward-fill unknown values along the moments of [columns, moments, slots]."""
    found = values.copy()
    for column in found[:-1]:
        unknown = np.isnan(column)
        if unknown[1:].any():
            newest = np.maximum.accumulate(np.where(unknown, 0, np.arange(len(column))[:, None]), axis=0)
            column[:] = np.take_along_axis(column, newest, axis=0)
    return found


def _highest(values: Floats) -> Floats:
    found: Floats = np.fmax.accumulate(values, axis=1)
    return found


def _lowest(values: Floats) -> Floats:
    found: Floats = np.fmin.accumulate(values, axis=1)
    return found

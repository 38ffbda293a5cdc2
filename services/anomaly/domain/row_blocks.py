"""Rows of many moments at once, for replays of a long past. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from accelerator_autopilot.anomaly.domain.last_values import Doubles, Floats, Slots


@dataclass(frozen=True)
class Part:
    """Devices with the same number of rows: `slots` [devices], `at_s` [rows, devices].

    `values` [columns, rows, devices] are those of `columns`, indices into COLUMNS. `moment` [rows, devices] is the
    moment of the block that each row belongs to.
    """

    slots: Slots
    at_s: Doubles
    values: Floats
    columns: Slots
    moment: Slots


@dataclass(frozen=True)
class Block:
    """Rows in order of time: `slots`, `at_s` and `moment` [rows], `values` [rows, columns] of `columns` of COLUMNS.

    `moment_s` are the times of its moments; a moment has at most one row of each device.
    """

    slots: Slots
    at_s: Doubles
    values: Floats
    columns: Slots
    moment: Slots
    moment_s: Doubles

    def parts(self) -> Iterator[Part]:
        """Split into rectangles: rules process devices separately, so devices with equally many rows go together."""
        order = np.argsort(self.slots, kind="stable")
        slots, starts, counts = np.unique(self.slots[order], return_index=True, return_counts=True)
        for count in np.unique(counts):
            here = counts == count
            rows = order[starts[here][None, :] + np.arange(count)[:, None]]
            values = np.take(self.values.T, rows, axis=1)
            yield Part(slots[here], self.at_s[rows], values, self.columns, self.moment[rows])

    def heard_s(self, slots: Slots, before_s: Doubles) -> Doubles:
        """Return when each slot was last heard by each moment [moments, slots]; `before_s` is before the first."""
        column = np.full(int(slots.max(initial=0)) + 1, -1)
        column[slots] = np.arange(len(slots))
        heard = np.full((len(self.moment_s) + 1, len(slots)), -np.inf)
        heard[0] = np.where(np.isnan(before_s), -np.inf, before_s)
        heard[self.moment + 1, column[self.slots]] = self.at_s
        last: Doubles = np.maximum.accumulate(heard, axis=0)[1:]
        return last

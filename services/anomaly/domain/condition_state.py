"""Track many conditions of many devices: each starts after holding for a while, and ends after clearing for a while."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from accelerator_autopilot.anomaly.domain.last_values import Bools, Doubles, Slots

REPEAT_INTERVAL_S = 60.0
FLAP_WITHIN_S, MAX_FLAPS, FLAP_CLEAR_S = 3600.0, 6.0, 10.0


@dataclass(frozen=True)
class Changes:
    """Indices of rows whose condition started, continues and is due to be reported again, or ended."""

    opened: Slots
    going_on: Slots
    ended: Slots


class Conditions:
    """Timers of one condition, one per slot."""

    def __init__(self, open_after_s: float, clear_after_s: float) -> None:
        self.open_after_s, self.clear_after_s = open_after_s, clear_after_s
        self._firing = np.empty(0, bool)
        self._counts = np.empty(0, bool)
        self._since_s = np.empty(0)
        self._reported_s = np.empty(0)
        self._ended_s = np.empty(0)
        self._flaps = np.empty(0)

    def grow(self, slots: int) -> None:
        """Grow to at least this many slots."""
        more = slots - len(self._firing)
        if more > 0:
            more = max(more, len(self._firing))
            self._firing = np.concatenate([self._firing, np.zeros(more, bool)])
            self._counts = np.concatenate([self._counts, np.zeros(more, bool)])
            self._since_s = np.concatenate([self._since_s, np.full(more, -np.inf)])
            self._reported_s = np.concatenate([self._reported_s, np.full(more, -np.inf)])
            self._ended_s = np.concatenate([self._ended_s, np.full(more, -np.inf)])
            self._flaps = np.concatenate([self._flaps, np.zeros(more)])

    def counts(self, slots: Slots) -> Bools:
        """Whether the condition is active for these slots."""
        counts: Bools = self._counts[slots]
        return counts

    def hold(self, slot: int, at_s: float) -> None:
        """Mark the condition as active, after a restart."""
        self._firing[slot] = self._counts[slot] = True
        self._since_s[slot] = self._reported_s[slot] = at_s

    def clear(self, slot: int) -> None:
        """Mark the condition as inactive, without reporting: there is nothing left to judge it by."""
        self._firing[slot] = self._counts[slot] = False

    def update(self, slots: Slots, at_s: Doubles, firing: Bools, known: Bools) -> Changes:
        """Update from rows; rows that are not `known` change nothing."""
        if not (known & firing).any() and not (self._firing[slots] | self._counts[slots]).any():
            nothing = np.empty(0, np.int64)
            return Changes(nothing, nothing, nothing)
        firing = np.where(known, firing, self._firing[slots])
        turned = firing != self._firing[slots]
        # A clock that was set back must not hold a condition forever.
        since_s = np.minimum(np.where(turned, at_s, self._since_s[slots]), at_s)
        held_s = at_s - since_s
        before = self._counts[slots]
        opened = known & firing & ~before & (held_s >= self.open_after_s)
        # What recurs soon after its end must stay clear for longer, twice as long each time.
        flaps = self._flaps[slots]
        again = (self.clear_after_s + FLAP_CLEAR_S) * 2**flaps
        ended = known & ~firing & before & (held_s >= np.where(flaps > 0, again, self.clear_after_s))
        soon = np.abs(at_s - self._ended_s[slots]) < FLAP_WITHIN_S
        self._flaps[slots] = np.where(opened, np.where(soon, np.minimum(flaps + 1, MAX_FLAPS), 0.0), flaps)
        self._ended_s[slots] = np.where(ended, at_s, self._ended_s[slots])
        going_on = known & firing & before & (np.abs(at_s - self._reported_s[slots]) >= REPEAT_INTERVAL_S)
        self._firing[slots], self._since_s[slots] = firing, since_s
        self._counts[slots] = (before | opened) & ~ended
        reported = opened | going_on
        self._reported_s[slots] = np.where(reported, at_s, self._reported_s[slots])
        return Changes(np.flatnonzero(opened), np.flatnonzero(going_on), np.flatnonzero(ended))

    def update_many(self, slots: Slots, at_s: Doubles, firing: Bools, known: Bools) -> Changes:
        """Update from several rows of each slot in order of time, all [moments, slots].

        Indices are into the flat array.
        """
        opened: list[int] = []
        going_on: list[int] = []
        ended: list[int] = []
        here = (known & firing).any(axis=0) | self._firing[slots] | self._counts[slots]
        for column in np.flatnonzero(here):
            rows = np.flatnonzero(known[:, column])
            changes = self._follow(int(slots[column]), at_s[rows, column], firing[rows, column])
            for found, reported in zip((opened, going_on, ended), changes, strict=True):
                found.extend((rows[reported] * len(slots) + column).tolist())
        return Changes(*(np.array(sorted(found), np.int64) for found in (opened, going_on, ended)))

    def _follow(self, slot: int, at_s: Doubles, firing: Bools) -> tuple[list[int], list[int], list[int]]:
        """Find rows of one slot that start, continue and end.

        Only rows where it flips or something is due are visited.
        """
        opened: list[int] = []
        going_on: list[int] = []
        ended: list[int] = []
        if not len(at_s):
            return opened, going_on, ended
        turns = np.flatnonzero(np.diff(firing)) + 1
        for first, last in zip([0, *turns.tolist()], [*turns.tolist(), len(at_s)], strict=True):
            fires = bool(firing[first])
            if fires != bool(self._firing[slot]):
                self._firing[slot], self._since_s[slot] = fires, at_s[first]
            self._since_s[slot] = min(self._since_s[slot], at_s[first])
            if not fires:
                self._end(slot, at_s, first, last, ended)
                continue
            row = first
            if not self._counts[slot]:
                row = _when(at_s, first, last, self._since_s[slot], self.open_after_s)
                if row == last:
                    continue
                soon = abs(at_s[row] - self._ended_s[slot]) < FLAP_WITHIN_S
                self._flaps[slot] = min(self._flaps[slot] + 1, MAX_FLAPS) if soon else 0.0
                self._counts[slot], self._reported_s[slot] = True, at_s[row]
                opened.append(row)
            while (row := _when(at_s, row, last, self._reported_s[slot], REPEAT_INTERVAL_S)) < last:
                self._reported_s[slot] = at_s[row]
                going_on.append(row)
        return opened, going_on, ended

    def _end(self, slot: int, at_s: Doubles, first: int, last: int, ended: list[int]) -> None:
        flaps = self._flaps[slot]
        least_s = (self.clear_after_s + FLAP_CLEAR_S) * 2**flaps if flaps > 0 else self.clear_after_s
        row = _when(at_s, first, last, self._since_s[slot], least_s) if self._counts[slot] else last
        if row < last:
            self._counts[slot], self._ended_s[slot] = False, at_s[row]
            ended.append(row)


def _when(at_s: Doubles, first: int, last: int, since_s: float, after_s: float) -> int:
    """Return the first row at least this long after a time; `last` when there is none."""
    row = first + int(np.searchsorted(at_s[first:last], since_s + after_s))
    # The sum rounds differently than the difference that counts.
    while row > first and at_s[row - 1] - since_s >= after_s:
        row -= 1
    while row < last and at_s[row] - since_s < after_s:
        row += 1
    return row

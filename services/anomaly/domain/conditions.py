"""Many conditions of many devices: each counts when it held for a while, and is over when it did not for a while."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from services.anomaly.domain.history import Bools, Doubles, Slots

TELL_AGAIN_S = 60.0
FLAP_WITHIN_S, MOST_FLAPS, FLAP_CLEAR_S = 3600.0, 6.0, 10.0


@dataclass(frozen=True)
class Changes:
    """Indices of rows whose condition began to count, still counts and is due to be told again, or ended."""

    opened: Slots
    going_on: Slots
    ended: Slots


class Conditions:
    """Timers of one condition, one a slot."""

    def __init__(self, open_after_s: float, clear_after_s: float) -> None:
        self.open_after_s, self.clear_after_s = open_after_s, clear_after_s
        self._firing = np.empty(0, bool)
        self._counts = np.empty(0, bool)
        self._since_s = np.empty(0)
        self._told_s = np.empty(0)
        self._ended_s = np.empty(0)
        self._flaps = np.empty(0)

    def grow(self, slots: int) -> None:
        """Have at least this many slots."""
        more = slots - len(self._firing)
        if more > 0:
            more = max(more, len(self._firing))
            self._firing = np.concatenate([self._firing, np.zeros(more, bool)])
            self._counts = np.concatenate([self._counts, np.zeros(more, bool)])
            self._since_s = np.concatenate([self._since_s, np.full(more, -np.inf)])
            self._told_s = np.concatenate([self._told_s, np.full(more, -np.inf)])
            self._ended_s = np.concatenate([self._ended_s, np.full(more, -np.inf)])
            self._flaps = np.concatenate([self._flaps, np.zeros(more)])

    def counts(self, slots: Slots) -> Bools:
        """Whether the condition counts for these slots."""
        counts: Bools = self._counts[slots]
        return counts

    def hold(self, slot: int, at_s: float) -> None:
        """Take the condition as counting, after a restart."""
        self._firing[slot] = self._counts[slot] = True
        self._since_s[slot] = self._told_s[slot] = at_s

    def clear(self, slot: int) -> None:
        """Take the condition as over, without telling: there is nothing more to judge it by."""
        self._firing[slot] = self._counts[slot] = False

    def update(self, slots: Slots, at_s: Doubles, firing: Bools, known: Bools) -> Changes:
        """Take in what rows say; rows that are not `known` change nothing."""
        if not (known & firing).any() and not (self._firing[slots] | self._counts[slots]).any():
            nothing = np.empty(0, np.int64)
            return Changes(nothing, nothing, nothing)
        firing = np.where(known, firing, self._firing[slots])
        turned = firing != self._firing[slots]
        # A clock that was set back must not hold a condition for ever.
        since_s = np.minimum(np.where(turned, at_s, self._since_s[slots]), at_s)
        held_s = at_s - since_s
        before = self._counts[slots]
        opened = known & firing & ~before & (held_s >= self.open_after_s)
        # What comes again soon after its end has to be gone for longer, each time twice as long.
        flaps = self._flaps[slots]
        again = (self.clear_after_s + FLAP_CLEAR_S) * 2**flaps
        ended = known & ~firing & before & (held_s >= np.where(flaps > 0, again, self.clear_after_s))
        soon = np.abs(at_s - self._ended_s[slots]) < FLAP_WITHIN_S
        self._flaps[slots] = np.where(opened, np.where(soon, np.minimum(flaps + 1, MOST_FLAPS), 0.0), flaps)
        self._ended_s[slots] = np.where(ended, at_s, self._ended_s[slots])
        going_on = known & firing & before & (np.abs(at_s - self._told_s[slots]) >= TELL_AGAIN_S)
        self._firing[slots], self._since_s[slots] = firing, since_s
        self._counts[slots] = (before | opened) & ~ended
        told = opened | going_on
        self._told_s[slots] = np.where(told, at_s, self._told_s[slots])
        return Changes(np.flatnonzero(opened), np.flatnonzero(going_on), np.flatnonzero(ended))

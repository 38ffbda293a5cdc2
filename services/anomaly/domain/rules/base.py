"""The base of all rules. A rule detects one kind of known fault, in all rows of a batch at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from accelerator_autopilot.anomaly.domain.decaying_sums import fading
from accelerator_autopilot.anomaly.domain.last_values import Bools, Doubles, Floats, Slots, View, all_of, any_of
from accelerator_autopilot.anomaly.domain.metric_columns import COLUMN
from accelerator_autopilot.contracts.messages.alerts import Severity

Tested = tuple[Bools, Bools]
# After the window, a count has decayed to 1/e.
ANY_GROWTH = 0.367


@dataclass(frozen=True)
class Kind:
    """A kind of fault: severity, how long it must last, what to do, and the metrics that show it.

    `summary` is a format string whose fields are the metrics' names.
    """

    name: str
    severity: Severity
    summary: str
    action: str
    metrics: tuple[str, ...]
    expected: str = ""
    open_after_s: float = 0.0
    clear_after_s: float = 30.0
    # Whether load, temperature and power of a device with this fault must not be learned from.
    disturbs: bool = True
    # Whether only a reset or an operator resolves it: a drained device shows no faults because it is idle.
    holds: bool = False

    @property
    def runbook(self) -> str:
        """Link to the documentation of what to do."""
        return f"docs/reference/alerts.md#{self.name}"


class Rule(Protocol):
    """One kind of fault; rules may keep a little state per slot."""

    kind: Kind

    @property
    def reads(self) -> tuple[str, ...]:
        """The metrics without which there is nothing to test."""

    def grow(self, slots: int) -> None:
        """Grow to at least this many slots."""

    def test(self, view: View) -> Tested:
        """Return whether the fault is present [rows], and whether that can be determined [rows]."""


class Stateless:
    """Keeps no state."""

    def grow(self, slots: int) -> None:
        """Do nothing: there is no state."""


@dataclass
class Simple(Stateless):
    """A stateless rule: `fires` on the last known values. Unknown where any of `needs` was never read."""

    kind: Kind
    needs: tuple[str, ...]
    fires: Callable[[View], Bools]

    @property
    def reads(self) -> tuple[str, ...]:
        """The metrics it needs."""
        return self.needs

    def test(self, view: View) -> Tested:
        """Test the rows."""
        known = ~any_of(np.isnan(view.pick(view.held, [COLUMN[name] for name in self.needs])))
        return self.fires(view) & known, known


@dataclass
class Growth:
    """Counters of one fault: fires while the fastest one's growth within a fading window exceeds `most`."""

    kind: Kind
    counters: tuple[str, ...]
    most: float
    window_s: float
    _sum: Floats = field(default_factory=lambda: np.empty(0, np.float32))

    @property
    def reads(self) -> tuple[str, ...]:
        """The counters."""
        return self.counters

    def grow(self, slots: int) -> None:
        """Grow to at least this many slots."""
        more = slots - len(self._sum)
        if more > 0:
            self._sum = np.concatenate([self._sum, np.zeros(max(more, len(self._sum)), np.float32)])

    def test(self, view: View) -> Tested:
        """Decay the sums and add the growth."""
        gained = np.stack([view.growth(name) for name in self.counters], 1)
        known = ~all_of(np.isnan(gained))
        keep, more = np.exp(-view.dt_s / self.window_s), np.nan_to_num(gained).max(1)
        totals = fading(self._sum[view.each], view.grid(keep), view.grid(more))
        self._sum[view.each] = totals[-1]
        total = totals.ravel()
        return total > self.most, known | (total > 0)

    def reset(self, slot: int) -> None:
        """Clear the sums after a device reset."""
        self._sum[slot] = 0.0


def filled(array: Doubles | Floats | Slots, slots: int, value: float) -> Doubles:
    """Return an array extended to at least this many slots."""
    more = slots - len(array)
    if more <= 0:
        return array  # type: ignore[return-value]
    return np.concatenate([array, np.full(max(more, len(array)), value)])

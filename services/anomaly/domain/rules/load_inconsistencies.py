"""Load, power and clocks that are inconsistent: stuck clocks, hung kernels, hidden work."""

from __future__ import annotations

import numpy as np

from accelerator_autopilot.anomaly.domain.decaying_sums import CHUNK, fading
from accelerator_autopilot.anomaly.domain.last_values import Bools, Doubles, Floats, Slots, View
from accelerator_autopilot.anomaly.domain.rules.base import Kind, Rule, Stateless, Tested, filled
from accelerator_autopilot.anomaly.domain.rules.cooling import reasons

BUSY_PCT, FULL_PCT, IDLE_PCT = 50.0, 95.0, 3.0
LOW_CLOCK_SHARE = 0.7
CAUSES = 0x2 | 0x4 | 0x8 | 0x20 | 0x40 | 0x80  # locked clocks, power cap, slowdown, heat, brake
USUAL_ROWS = 200.0  # rows over which the usual clock under load is averaged
LEARNED_ROWS = 30.0
HIDDEN_SHARE, HUNG_SHARE = 0.4, 0.12


class ClocksLow:
    """A clock far below the usual one under load, without a reported reason or a cap. It is easily overlooked."""

    kind = Kind(
        "clocks_low",
        "warning",
        "{clock_sm_mhz:.0f} MHz under load, far below the usual clock, without a reported cause",
        "reset the GPU; check for locked clocks and for a stuck power state",
        ("clock_sm_mhz", "gpu_util_pct", "power_w", "power_cap_w", "clock_event_reasons", "temp_c"),
        "the usual clock under load",
        open_after_s=60.0,
        clear_after_s=60.0,
    )
    reads = ("clock_sm_mhz",)

    def __init__(self) -> None:
        self._usual: Doubles = np.empty(0)
        self._rows: Doubles = np.empty(0)

    def grow(self, slots: int) -> None:
        """Grow to at least this many slots."""
        self._usual, self._rows = filled(self._usual, slots, 0.0), filled(self._rows, slots, 0.0)

    def test(self, view: View) -> Tested:
        """Compare with the device's usual clock under load; low clocks are not learned."""
        clock = view.read("clock_sm_mhz")
        known = (view.get("gpu_util_pct") >= BUSY_PCT) & ~np.isnan(clock)
        capped = view.get("power_cap_w") < 0.98 * view.highest("power_cap_w")
        at_cap = view.get("power_w") >= 0.93 * view.get("power_cap_w")
        caused = capped | at_cap | reasons(view, CAUSES)
        if not known.any():
            return known, known
        read, learnable = view.grid(np.nan_to_num(clock)), view.grid(known & ~caused)
        low = np.empty(read.shape, bool)
        for first in range(0, view.moments, CHUNK):
            here = slice(first, first + CHUNK)
            low[here] = self._follow(view.each, read[here], learnable[here])
        return low.ravel() & known & ~caused, known

    def _follow(self, slots: Slots, read: Floats, learnable: Bools) -> Bools:
        """Return which clocks [moments, slots] are low, each compared with the usual clock before it."""
        usual, rows = self._usual[slots], self._rows[slots]
        counted = rows + np.add.accumulate(learnable, axis=0)
        before = counted - learnable
        rate = learnable / np.minimum(before + 1, USUAL_ROWS)
        course = fading(usual, 1 - rate, rate * read)
        earlier = np.concatenate([usual[None], course[:-1]])
        low: Bools = (before >= LEARNED_ROWS) & (read < LOW_CLOCK_SHARE * earlier)
        if not (low & learnable).any():
            self._usual[slots], self._rows[slots] = course[-1], counted[-1]
            return low
        for t in range(len(read)):
            low[t] = (rows >= LEARNED_ROWS) & (read[t] < LOW_CLOCK_SHARE * usual)
            takes = learnable[t] & ~low[t]
            usual = usual + takes / np.minimum(rows + 1, USUAL_ROWS) * (read[t] - usual)
            rows = rows + takes
        self._usual[slots], self._rows[slots] = usual, rows
        return low


def _span(view: View) -> tuple[Doubles, Bools]:
    """Return where power lies between its minimum and maximum so far, and whether both are known well enough."""
    lowest, highest = view.lowest("power_w"), view.highest("power_w")
    wide = (highest - lowest) > 0.25 * highest
    share = (view.get("power_w") - lowest) / np.maximum(highest - lowest, 1e-3)
    return share.astype(np.float64), wide & ~np.isnan(view.get("power_w"))


class HiddenLoad(Stateless):
    """High power without utilisation: hidden work, or a stuck counter."""

    kind = Kind(
        "power_without_load",
        "warning",
        "{power_w:.0f} W at only {gpu_util_pct:.0f} % utilisation",
        "look for unexpected processes; reload the driver if there are none",
        ("power_w", "gpu_util_pct", "processes", "clock_sm_mhz"),
        "idle power without load",
        open_after_s=60.0,
        clear_after_s=30.0,
    )
    reads = ("power_w",)

    def test(self, view: View) -> Tested:
        """Idle by utilisation, far from idle by power."""
        share, known = _span(view)
        util = view.get("gpu_util_pct")
        return known & (util <= IDLE_PCT) & (share > HIDDEN_SHARE), known & ~np.isnan(util)


class Hung(Stateless):
    """Full utilisation at idle power for a long time: a kernel that spins or waits for a dead peer."""

    kind = Kind(
        "hung_kernel",
        "warning",
        "{gpu_util_pct:.0f} % utilisation at {power_w:.0f} W, which is idle power",
        "check whether the job waits for a peer; restart it",
        ("gpu_util_pct", "power_w", "mem_util_pct", "clock_sm_mhz"),
        "power that matches the load",
        open_after_s=300.0,
        clear_after_s=30.0,
    )
    reads = ("power_w",)

    def test(self, view: View) -> Tested:
        """Busy by utilisation, idle by power."""
        share, known = _span(view)
        util = view.get("gpu_util_pct")
        return known & (util >= FULL_PCT) & (share < HUNG_SHARE), known & ~np.isnan(util)


def make() -> list[Rule]:
    """Create one of each."""
    return [ClocksLow(), HiddenLoad(), Hung()]

"""Devices that work on one job: a slow one, or one that does most of the work, delays the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from accelerator_autopilot.anomaly.domain.last_values import Bools, Doubles, Slots, View
from accelerator_autopilot.anomaly.domain.peer_groups import median_of_others
from accelerator_autopilot.anomaly.domain.rules.base import Kind, Rule, Tested, filled

ALONE = -1
BUSY_PCT, SLOW_SHARE, MORE_PCT = 50.0, 0.85, 40.0
Compare = Callable[[Doubles, Doubles, Doubles, Doubles], Bools]


@dataclass
class CollectiveRule:
    """Compares a device with the median of the others of its job; `compare(util, others, clock, others)`."""

    kind: Kind
    compare: Compare
    reads: tuple[str, ...]
    _job_group: Doubles = field(default_factory=lambda: np.empty(0))

    def grow(self, slots: int) -> None:
        """Grow to at least this many slots."""
        self._job_group = filled(self._job_group, slots, ALONE)

    def join(self, job_group_of: Slots) -> None:
        """Set the job group of each slot, ALONE for none."""
        self._job_group[:] = ALONE
        self._job_group[: len(job_group_of)] = job_group_of

    def test(self, view: View) -> Tested:
        """Test rows whose job has other devices among the rows."""
        group = self._job_group[view.slots]
        rows = np.flatnonzero(group != ALONE)
        firing, known = np.zeros(len(view), bool), np.zeros(len(view), bool)
        if len(rows):
            util, clock = (view.get(name)[rows].astype(np.float64) for name in ("gpu_util_pct", "clock_sm_mhz"))
            others_util, others_clock = (median_of_others(value, group[rows]) for value in (util, clock))
            known[rows] = ~np.isnan(util) & ~np.isnan(others_util)
            firing[rows] = known[rows] & self.compare(util, others_util, clock, others_clock)
        # A device that has left its job no longer has the fault.
        return firing, known | (group == ALONE)


def _slow(util: Doubles, others_util: Doubles, clock: Doubles, others_clock: Doubles) -> Bools:
    slow: Bools = (util >= BUSY_PCT) & (others_util >= BUSY_PCT) & (clock < SLOW_SHARE * others_clock)
    return slow


def _burdened(util: Doubles, others_util: Doubles, _: Doubles, __: Doubles) -> Bools:
    burdened: Bools = util >= others_util + MORE_PCT
    return burdened


def make() -> list[Rule]:
    """Create one of each."""
    return [
        CollectiveRule(
            Kind(
                "straggler",
                "warning",
                "{clock_sm_mhz:.0f} MHz under load, far slower than the job's other devices, which wait for it",
                "compare power caps, temperatures and links of the job's devices; restart the job without this one",
                ("clock_sm_mhz", "gpu_util_pct", "power_w", "power_cap_w", "temp_c", "clock_event_reasons"),
                "the clock of the job's other devices",
                open_after_s=60.0,
                clear_after_s=60.0,
            ),
            _slow,
            ("clock_sm_mhz",),
        ),
        CollectiveRule(
            Kind(
                "imbalance",
                "info",
                "{gpu_util_pct:.0f} % utilisation, while the job's other devices are nearly idle",
                "distribute the job's data or layers more evenly",
                ("gpu_util_pct", "memory_used_bytes", "power_w"),
                "the load of the job's other devices",
                open_after_s=300.0,
                clear_after_s=60.0,
                disturbs=False,
            ),
            _burdened,
            ("gpu_util_pct",),
        ),
    ]

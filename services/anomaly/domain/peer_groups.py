"""Compare a device with the others of its group: its node, or its job."""

from __future__ import annotations

import numpy as np

from accelerator_autopilot.anomaly.domain.last_values import Doubles, Slots


def median_of_others(value: Doubles, group_of: Slots | Doubles) -> Doubles:
    """Return [N] the median of the group's others, which one outlier does not move; NaN where there are none."""
    group = _numbered(group_of)
    order = np.lexsort((value, group))  # NaN sorts last
    ordered, groups = value[order], group[order]
    starts = np.r_[0, np.flatnonzero(np.diff(groups)) + 1] if len(groups) else np.empty(0, np.int64)
    start = starts[groups]
    rank = np.arange(len(value)) - start
    others = np.bincount(group, ~np.isnan(value)).astype(np.int64)[groups] - ~np.isnan(ordered)
    last = np.maximum(len(value) - 1, 0)

    def nth(n: Slots) -> Doubles:
        found: Doubles = ordered[np.clip(start + n + (n >= rank), 0, last)]
        return found

    middle = (nth((others - 1) // 2) + nth(others // 2)) / 2
    out = np.empty_like(value)
    out[order] = np.where(others > 0, middle, np.nan)
    return out


def _numbered(group_of: Slots | Doubles) -> Slots:
    """Number the groups 0, 1, …; usually there is only one, which is detected in a tenth of the time."""
    if len(group_of) and (group_of == group_of[0]).all():
        return np.zeros(len(group_of), np.int64)
    group: Slots = np.unique(group_of, return_inverse=True)[1]
    return group

"""Exponentially decaying sums, over many rows of many devices at once. Pure."""

from __future__ import annotations

import math

import numpy as np

from accelerator_autopilot.anomaly.domain.last_values import Bools, Doubles, Floats

SHORT_CHUNK, CHUNK = 64, 512
# In a chunk whose rows keep less than this each, the product of all would underflow as a divisor.
MIN_KEPT_SHARE, MIN_PRODUCT = 0.5, 1e-100
# No reading of power, temperature or load is further from zero than this.
REACH, LIFT = 4e5, 1e6


def fading(start: Doubles | Floats, keep: Doubles, add: Doubles) -> Doubles:
    """Return y[t] = y[t-1] * keep[t] + add[t] from y[-1] = `start` [slots], for `keep` and `add` [rows, slots]."""
    rows = len(add)
    if rows == 1:
        return start * keep + add
    if not start.any() and not add.any():
        return np.zeros(add.shape)
    out, y = np.empty(add.shape), start.astype(np.float64)
    chunk = _chunk(float(keep.min()))
    for first in range(0, rows, chunk):
        last = min(first + chunk, rows)
        k, a = keep[first:last], add[first:last]
        if k.min() >= MIN_KEPT_SHARE:
            kept = np.multiply.accumulate(k, axis=0)
            out[first:last] = kept * (y + np.add.accumulate(a / kept, axis=0))
            y = out[last - 1]
        else:
            for t in range(first, last):
                y = out[t] = y * keep[t] + add[t]
    return out


def _chunk(least_kept: float) -> int:
    """Return how many rows that keep at least this much each can be multiplied without underflow."""
    if least_kept < MIN_KEPT_SHARE:
        return SHORT_CHUNK
    return CHUNK if least_kept >= 1 else min(CHUNK, int(math.log(MIN_PRODUCT) / math.log(least_kept)))


def running_extremes(
    level: Doubles, begun: Bools, known: Bools, high: Doubles, low: Doubles
) -> tuple[Doubles, Doubles]:
    """Return the highest and lowest `level` [rows, slots] since the last known row that has `begun`.

    Unknown rows change nothing. `high` and `low` [slots] are those before the first row.
    """
    # One maximum over all rows, with every start lifted above what was before it.
    section = np.add.accumulate(begun & known, axis=0)
    lift = section * LIFT

    def highest(values: Doubles, before: Doubles) -> Doubles:
        values = np.where(known, np.clip(np.nan_to_num(values), -REACH, REACH), -REACH) + lift
        whole = np.concatenate([np.clip(before, -REACH, REACH)[None], values])
        return np.maximum.accumulate(whole, axis=0)[1:] - lift

    return highest(level, high), -highest(-level, -low)

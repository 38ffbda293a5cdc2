"""From a fleet's own past to the twin: service times, arrivals, load times, and what devices draw idle and at work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from services.scheduler.domain.pool import Doubles
from services.scheduler.domain.power_curves import PowerCurve
from services.scheduler.twin.twin import PoolModel, Trace

IDLE_UTIL_PCT, BUSY_UTIL_PCT = 5.0, 80.0
FEWEST_MINUTES = 10


@dataclass(frozen=True)
class Minutes:
    """What devices of one kind told, [M] each."""

    util_pct: Doubles
    power_w: Doubles
    cap_w: Doubles


def calibrated_curve(published: PowerCurve, told: Sequence[Minutes]) -> PowerCurve:
    """The published curve, moved to what was measured: idle watts, and watts at work near full power.

    Relative times stay as published: a speed at another cap is known only where that cap was held.
    """
    if not told:
        return published
    util = np.concatenate([m.util_pct for m in told])
    power = np.concatenate([m.power_w for m in told])
    known = np.isfinite(util) & np.isfinite(power)
    idle = power[known & (util <= IDLE_UTIL_PCT)]
    busy = power[known & (util >= BUSY_UTIL_PCT)]
    idle_w = float(np.median(idle)) if len(idle) >= FEWEST_MINUTES else published.idle_w
    power_w = published.power_w
    if len(busy) >= FEWEST_MINUTES:
        power_w = np.minimum(power_w * float(np.quantile(busy, 0.9)) / float(power_w[-1]), published.cap_w)
    return replace(published, power_w=power_w, idle_w=min(idle_w, float(power_w.min())))


def pool_model(
    curve: PowerCurve, *, ceiling: int, slack_s: float, load_s: Doubles, interval_s: float, step_s: float = 0.25
) -> PoolModel:
    """A pool of the twin with these bounds; it is found as a scheduler would find it, with nothing running."""
    return PoolModel(
        size=ceiling,
        curve=np.stack([curve.cap_w, curve.relative_time, curve.power_w]),
        idle_w=curve.idle_w,
        load_w=curve.load_w,
        load_s=load_s,
        slack_s=slack_s,
        interval_s=interval_s,
        step_s=min(step_s, interval_s),
        warm=False,
    )


def trace_of(submitted_s: Doubles, work_s: Doubles) -> Trace:
    """Jobs in the order of arrival."""
    order = np.argsort(submitted_s, kind="stable")
    return Trace(submitted_s[order], work_s[order])


def in_blocks(at_s: Doubles, amount: Doubles, length_s: float, block_s: float) -> Doubles:
    """Sums over blocks of time."""
    which: NDArray[np.intp] = np.minimum(at_s // block_s, length_s // block_s).astype(np.intp)
    return np.bincount(which, weights=amount, minlength=int(length_s // block_s) + 1).astype(np.float64)

"""Calibrate the twin from a fleet's own history: service times, arrivals, load times, power idle and at work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from accelerator_autopilot.scheduler.domain.pool_arrays import Doubles
from accelerator_autopilot.scheduler.domain.power_curves import PowerCurve
from accelerator_autopilot.scheduler.twin.simulation import PoolModel, Trace

IDLE_UTIL_PCT, BUSY_UTIL_PCT = 5.0, 80.0
MIN_MINUTES, MIN_JOBS = 10, 30
FULL_SPEED = 1.005  # relative time up to which a cap counts as full power
BEND = (0.25, 3.0)  # bounds of the exponent on a published curve
MAX_SLOTS, MAX_STRETCH = 16, 1.0
LEVELS = 9  # share of power, in the curve of a pool of several models
ALONE = 0.7  # share of the working power: ML.ENERGY v3, LLMs on H100, a batch of 8 against the largest


@dataclass(frozen=True)
class Minutes:
    """Readings of devices of one kind, [M] each."""

    util_pct: Doubles
    power_w: Doubles
    cap_w: Doubles


@dataclass(frozen=True)
class JobRuns:
    """Jobs, [N] each."""

    kind: NDArray[np.intp]  # number of the job's kind
    batch_size: NDArray[np.int64]
    run_s: Doubles  # of the whole batch
    cap_w: Doubles  # of the device while it ran; NaN: unknown

    def of(self, chosen: NDArray[np.bool_]) -> JobRuns:
        """Return a subset."""
        return JobRuns(self.kind[chosen], self.batch_size[chosen], self.run_s[chosen], self.cap_w[chosen])


def calibrated_speed(published: PowerCurve, runs: JobRuns) -> PowerCurve:
    """Adjust published relative times to how much longer jobs of a kind ran under a cap than at full power.

    One number is fitted, the exponent of the whole curve, by least squares in logarithms, so that a few caps inform
    all. Without enough jobs under a cap and at full power the published curve is kept.
    """
    slow = np.interp(runs.cap_w, published.cap_w, published.relative_time)
    known = np.isfinite(runs.cap_w) & (runs.run_s > 0)
    x, y = [], []
    for same in np.unique(np.stack([runs.kind[known], runs.batch_size[known]], axis=1), axis=0):
        its = known & (runs.kind == same[0]) & (runs.batch_size == same[1])
        full, capped = its & (slow <= FULL_SPEED), its & (slow > FULL_SPEED)
        if min(full.sum(), capped.sum()) < MIN_JOBS:
            continue
        x.append(np.log(slow[capped]))
        y.append(np.log(runs.run_s[capped]) - np.log(runs.run_s[full]).mean())
    if not x:
        return published
    xs, ys = np.concatenate(x), np.concatenate(y)
    bend = float(np.clip((xs * ys).sum() / (xs * xs).sum(), *BEND))
    return replace(published, relative_time=published.relative_time**bend)


def calibrated_batching(runs: JobRuns) -> tuple[int, float]:
    """Return jobs per worker, and by which share each further one slows all; (1, 0) with too few samples."""
    further, slower = [], []
    for kind in np.unique(runs.kind):
        its, several = runs.kind == kind, runs.batch_size > 1
        if min((its & several).sum(), (its & ~several).sum()) < MIN_JOBS:
            continue
        alone_s = float(runs.run_s[its & ~several].mean())
        further.append(runs.batch_size[its & several] - 1.0)
        slower.append(runs.run_s[its & several] / alone_s - 1.0)
    if not further:
        return 1, 0.0
    x, y = np.concatenate(further), np.concatenate(slower)
    stretch = float(np.clip((x * y).sum() / (x * x).sum(), 0.0, MAX_STRETCH))
    return min(int(runs.batch_size.max()), MAX_SLOTS), stretch


def work_alone_s(curve: PowerCurve, batching: tuple[int, float], runs: JobRuns) -> Doubles:
    """Return [N] how long each job would have run alone at full power.

    Where batches are larger than the twin's, or their cost is unknown, a job counts as its part of the batch.
    """
    slots, stretch = batching
    slow = np.interp(runs.cap_w, curve.cap_w, curve.relative_time)
    together = np.minimum(runs.batch_size, slots)
    alone: Doubles = runs.run_s * (together / runs.batch_size) / (1.0 + stretch * (together - 1))
    return alone / np.where(np.isfinite(slow), slow, 1.0)


def calibrated_curve(published: PowerCurve, minutes: Sequence[Minutes]) -> PowerCurve:
    """Shift the published curve to measurements: idle watts, and watts at work against those at the same cap."""
    if not minutes:
        return published
    util = np.concatenate([m.util_pct for m in minutes])
    power = np.concatenate([m.power_w for m in minutes])
    cap = np.concatenate([m.cap_w for m in minutes])
    known = np.isfinite(util) & np.isfinite(power)
    idle = power[known & (util <= IDLE_UTIL_PCT)]
    busy = known & (util >= BUSY_UTIL_PCT)
    idle_w = float(np.median(idle)) if len(idle) >= MIN_MINUTES else published.idle_w
    power_w = published.power_w
    if busy.sum() >= MIN_MINUTES:
        cap = np.where(np.isfinite(cap), cap, published.cap_w[-1])
        expected = np.interp(cap[busy], published.cap_w, published.power_w)
        power_w = np.minimum(power_w * float(np.quantile(power[busy] / expected, 0.9)), published.cap_w)
    return replace(published, power_w=power_w, idle_w=min(idle_w, float(power_w.min())))


def mixed(curves: Sequence[PowerCurve], parts: Doubles) -> PowerCurve:
    """Return the mean device of a pool of several models, with `parts` [K] of each, all at the same power level."""
    if len(curves) == 1:
        return curves[0]
    levels = np.linspace(0.0, 1.0, LEVELS)
    caps = np.stack([[curve.cap_at(level) for level in levels] for curve in curves])
    weights = parts / parts.sum()
    return PowerCurve(
        cap_w=weights @ caps,
        relative_time=weights
        @ np.stack([np.interp(w, c.cap_w, c.relative_time) for w, c in zip(caps, curves, strict=True)]),
        power_w=weights @ np.stack([np.interp(w, c.cap_w, c.power_w) for w, c in zip(caps, curves, strict=True)]),
        idle_w=float(weights @ np.array([c.idle_w for c in curves])),
    )


def pool_model(
    curve: PowerCurve,
    *,
    ceiling: int,
    slack_s: float,
    load_s: Doubles,
    interval_s: float,
    step_s: float = 0.25,
    batching: tuple[int, float] = (1, 0.0),
) -> PoolModel:
    """Return a pool of the twin with these bounds, in the state in which a scheduler would find it: nothing running."""
    return PoolModel(
        size=ceiling,
        curve=np.stack([curve.cap_w, curve.relative_time, curve.power_w]),
        idle_w=curve.idle_w,
        load_w=curve.load_w,
        load_s=load_s,
        slack_s=slack_s,
        interval_s=interval_s,
        step_s=min(step_s, interval_s),
        slots=batching[0],
        stretch=batching[1],
        alone=ALONE if batching[0] > 1 else 1.0,
        warm=False,
    )


def trace_of(submitted_s: Doubles, work_s: Doubles) -> Trace:
    """Return the jobs in order of arrival."""
    order = np.argsort(submitted_s, kind="stable")
    return Trace(submitted_s[order], work_s[order])


def in_blocks(at_s: Doubles, amount: Doubles, length_s: float, block_s: float) -> Doubles:
    """Sum over blocks of time."""
    which: NDArray[np.intp] = np.minimum(at_s // block_s, length_s // block_s).astype(np.intp)
    return np.bincount(which, weights=amount, minlength=int(length_s // block_s) + 1).astype(np.float64)

"""Random pools and random days of work, diverse enough that a policy which does well on them generalises.

Nothing here is a recording. The ranges enclose what published traces show: bursts with an inter-arrival coefficient of
variation up to 13 and silences of minutes (Azure LLM inference 2023), days with a factor of nine between peak and
valley (Azure 2024), 10 min peaks of eleven times the mean and two modes of load time, cached and not (Alibaba GenAI
2026), lognormal service times, batches that slow a job little and use a device much better (ML.ENERGY v3).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from accelerator_autopilot.scheduler.domain.pool_arrays import Action, Doubles
from accelerator_autopilot.scheduler.domain.power_curves import published
from accelerator_autopilot.scheduler.twin.simulation import PoolModel, Trace, Twin

MAX_REPLICAS = 96
UNSERVED = 0.002  # share of late jobs that even all replicas may have
MIN_JOBS = 40
BATCHING, BATCHES = 0.3, (2, 4, 8, 16)  # share of pools that run several jobs together, and how many


def random_curve(random: Generator) -> Doubles:
    """Return a measured curve, distorted and scaled a little: another card of the same family."""
    curves = list(published().values())
    curve = curves[random.integers(len(curves))].copy()
    scale = random.uniform(0.7, 2.0)
    curve[0] *= scale
    curve[1] = curve[1] ** random.uniform(0.7, 1.4)
    curve[2] *= scale * random.uniform(0.9, 1.1)
    keep = np.sort(random.permutation(curve.shape[1] - 1)[: random.integers(3, curve.shape[1])])
    return np.asarray(curve[:, [*keep, -1]], float)


@dataclass(frozen=True)
class Shape:
    """How the rate of a day varies; drawn once per trace."""

    level_jobs_per_s: float
    swing: float  # lognormal sigma of the slow level
    swing_time_s: float
    on_s: float  # mean length of busy spans
    off_s: float  # mean length of silences, 0 for none
    beat_s: float  # period of a periodic load, 0 for none
    burst: float  # mean jobs that arrive together
    burst_s: float  # within this time


def steady_shape(random: Generator, level_jobs_per_s: float) -> Shape:
    """Return a nearly constant level, as with many chat users."""
    return Shape(
        level_jobs_per_s=level_jobs_per_s,
        swing=random.uniform(0.05, 0.4),
        swing_time_s=float(np.exp(random.uniform(np.log(60), np.log(3600)))),
        on_s=0.0,
        off_s=0.0,
        beat_s=0.0,
        burst=random.uniform(1.0, 2.0),
        burst_s=2.0,
    )


def random_shape(random: Generator, level_jobs_per_s: float) -> Shape:
    """Return a varying level, perhaps with silences, a periodic load, and bursts."""
    silent = random.random() < 0.6
    return Shape(
        level_jobs_per_s=level_jobs_per_s,
        swing=random.uniform(0.1, 1.2),
        swing_time_s=float(np.exp(random.uniform(np.log(60), np.log(3600)))),
        on_s=float(np.exp(random.uniform(np.log(20), np.log(600)))),
        off_s=float(np.exp(random.uniform(np.log(10), np.log(400)))) if silent else 0.0,
        beat_s=random.uniform(120, 900) if random.random() < 0.3 else 0.0,
        burst=1.0 + float(np.exp(random.uniform(np.log(0.1), np.log(30)))),
        burst_s=float(np.exp(random.uniform(np.log(0.5), np.log(20)))),
    )


def random_arrivals(random: Generator, shape: Shape, length_s: float) -> Doubles:
    """Return arrival times: a Cox process of clusters."""
    grid_s = 5.0
    n = int(length_s / grid_s) + 1
    memory = np.exp(-grid_s / shape.swing_time_s)
    noise = random.normal(0, shape.swing * np.sqrt(1 - memory**2), n)
    slow = np.empty(n)
    slow[0] = random.normal(0, shape.swing)
    for i in range(1, n):
        slow[i] = memory * slow[i - 1] + noise[i]
    rate = np.exp(slow - shape.swing**2 / 2)
    if shape.off_s > 0:
        rate *= _on_off(random, shape, n, grid_s)
    if shape.beat_s > 0:
        phase = (np.arange(n) * grid_s / shape.beat_s + random.random()) % 1.0
        rate *= np.where(phase < random.uniform(0.2, 0.8), 1.0, random.uniform(0.0, 0.3))
    rate *= shape.level_jobs_per_s / max(rate.mean(), 1e-9)
    clusters = random.poisson(rate * grid_s / shape.burst)
    at = np.repeat(np.arange(n) * grid_s, clusters) + random.uniform(0, grid_s, clusters.sum())
    sizes = random.geometric(1.0 / shape.burst, len(at))
    times = np.repeat(at, sizes) + random.exponential(shape.burst_s, sizes.sum()) * (np.repeat(sizes, sizes) > 1)
    return np.sort(times[times < length_s])


def _on_off(random: Generator, shape: Shape, n: int, grid_s: float) -> Doubles:
    level = np.empty(n)
    i, on, quiet = 0, random.random() < 0.5, random.choice([0.0, 0.05])
    while i < n:
        mean_s = shape.on_s if on else shape.off_s
        span = max(1, round(random.exponential(mean_s) / grid_s))
        level[i : i + span] = random.lognormal(0.0, 0.4) if on else quiet
        i, on = i + span, not on
    return level


def random_load_s(random: Generator) -> Doubles:
    """Return load times with one mode or two: from a cache, and from a disk or a network."""
    slow_s = float(np.exp(random.uniform(np.log(5), np.log(60))))
    loads = slow_s * random.lognormal(0.0, random.uniform(0.05, 0.5), 256)
    if random.random() < 0.5:
        cached = random.random(256) < random.uniform(0.1, 0.6)
        loads = np.where(cached, slow_s * random.uniform(0.08, 0.3), loads)
    return np.asarray(loads, float)


def random_batching(random: Generator) -> tuple[int, float, float]:
    """Return jobs at once, how much each further one slows all, and one job's share of the working power."""
    if random.random() >= BATCHING:
        return 1, 0.0, 1.0
    stretch = float(np.exp(random.uniform(np.log(0.005), np.log(0.2))))
    return int(random.choice(BATCHES)), stretch, random.uniform(0.45, 0.95)


def random_pool(
    random: Generator, length_s: float, interval_s: float = 10.0, steady: float = 0.0
) -> tuple[PoolModel, Trace]:
    """Return a pool and its jobs, the share `steady` without bursts. A trace has at least one job."""
    work_s = float(np.exp(random.uniform(np.log(0.5), np.log(60))))
    spread = random.uniform(0.2, 1.1)
    busy = float(np.exp(random.uniform(np.log(0.7), np.log(14))))
    slots, stretch, alone = random_batching(random)
    together = slots / (1.0 + stretch * (slots - 1))
    make = steady_shape if steady and random.random() < steady else random_shape
    shape = make(random, busy * together / (work_s * np.exp(spread**2 / 2)))
    arrival_s = random_arrivals(random, shape, length_s)
    if not len(arrival_s):
        arrival_s = np.array([length_s / 2])
    curve = random_curve(random)
    idle_w = random.uniform(0.15, 0.4) * curve[0, -1]
    model = PoolModel(
        size=int(min(MAX_REPLICAS, max(8, random.uniform(6, 16) * busy))),
        curve=curve,
        idle_w=idle_w,
        load_w=idle_w + random.uniform(0.1, 0.4) * (curve[0, -1] - idle_w),
        load_s=random_load_s(random),
        slack_s=float(np.exp(random.uniform(np.log(6), np.log(60)))),
        interval_s=interval_s,
        step_s=0.5,
        slots=slots,
        stretch=stretch,
        alone=alone,
    )
    return model, Trace(arrival_s, work_s * random.lognormal(0.0, spread, len(arrival_s)))


def random_pools(
    random: Generator, count: int, length_s: float, steady: float = 0.0
) -> tuple[list[PoolModel], list[Trace]]:
    """Return pools that some policy can serve: all replicas at full power are in time with nearly every job."""
    models: list[PoolModel] = []
    traces: list[Trace] = []
    while len(models) < count:
        drawn = [random_pool(random, length_s, steady=steady) for _ in range(count)]
        twin = Twin([m for m, _ in drawn], [t for _, t in drawn], seed=0)
        everything = Action.at_once(twin.pools["size"].copy(), twin.pools["cap_w"].copy())
        for _ in range(int(length_s / drawn[0][0].interval_s) + 6):
            twin.act(everything)
        jobs = twin.pools["last"] - twin.pools["first"]
        served = (twin.pools["late"] + jobs - twin.pools["done"]) <= UNSERVED * jobs
        for (model, trace), fine in zip(drawn, served & (jobs >= MIN_JOBS), strict=True):
            if fine and len(models) < count:
                models.append(model)
                traces.append(trace)
    return models, traces

"""Simulate one interval of many pools at once, compiled: queue, loading, work, energy, heat, faults.

The states of a replica: off, loading, ready. A replica that is switched on loads its model first; one that is switched
off while busy finishes its jobs. Jobs start in order of arrival, up to `slots` at once on a replica. Speed and power at
work follow the measured curve for the power cap. Every row is a pool with its own clock and random numbers, so a row's
outcome does not depend on the other rows.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

OFF, LOADING, READY = 0, 1, 2
NO_JOB = -1
HEAT_TIME_S = 60.0  # a heat sink's time constant; between 30 and 120 s on air-cooled cards
HEAT_SLOWDOWN = 0.6  # speed left while the hardware throttles

POOL = np.dtype(
    [
        ("size", "i8"),  # maximum replicas
        ("slots", "i8"),  # jobs at once on a replica
        ("caps", "i8"),  # number of caps in the curve
        ("interval_s", "f8"),  # time between decisions
        ("step_s", "f8"),  # time step of the simulation
        ("idle_w", "f8"),  # power when ready and without work
        ("load_w", "f8"),  # power while loading
        ("stretch", "f8"),  # each further job on a replica slows all of them by this share
        ("alone", "f8"),  # share of the working power above idle that one job alone draws
        ("fault_per_s", "f8"),  # probability that a replica fails
        ("ambient_c", "f8"),
        ("heat_c_per_w", "f8"),  # steady temperature above ambient per watt
        ("hot_c", "f8"),  # clocks are reduced above this
        ("first", "i8"),  # index of the pool's first job
        ("last", "i8"),  # index after its last job
        ("head", "i8"),  # first job that waits
        ("come", "i8"),  # first job that has not arrived yet
        ("time_s", "f8"),
        ("cap_w", "f8"),
        ("delay_s", "f8"),  # how long the first job waits for a fuller batch
        ("done", "i8"),
        ("late", "i8"),
        ("starts", "i8"),
        ("faults", "i8"),
        ("joules", "f8"),
        ("random", "u8"),
        ("new_arrivals", "i8"),  # in the last interval, like all that follow
        ("new_completions", "i8"),
        ("new_late", "i8"),
        ("new_service_s", "f8"),
        ("new_joules", "f8"),
        ("hottest_c", "f8"),
    ]
)
REPLICA = np.dtype([("phase", "i8"), ("leaving", "i8"), ("running", "i8"), ("left_load_s", "f8"), ("temp_c", "f8")])
SLOT = np.dtype([("job", "i8"), ("left_work_s", "f8"), ("started_s", "f8")])
JOB = np.dtype([("arrival_s", "f8"), ("work_s", "f8"), ("allowed_s", "f8")])


def _jit(function: Any) -> Any:
    return numba.njit(cache=True, nogil=True)(function)


@_jit
def _uniform(pool: Any) -> Any:
    # xorshift64*, Vigna 2016: a stream per pool.
    x = pool.random
    x ^= x >> np.uint64(12)
    x ^= x << np.uint64(25)
    x ^= x >> np.uint64(27)
    pool.random = x
    return float((x * np.uint64(2685821657736338717)) >> np.uint64(11)) / 9007199254740992.0


@_jit
def _at_cap(cap_w: float, curve: Any, row: int, n: int) -> Any:
    if cap_w <= curve[0, 0]:
        return curve[row, 0]
    for i in range(1, n):
        if cap_w <= curve[0, i]:
            share = (cap_w - curve[0, i - 1]) / (curve[0, i] - curve[0, i - 1])
            return curve[row, i - 1] + share * (curve[row, i] - curve[row, i - 1])
    return curve[row, n - 1]


@_jit
def _begin_loading(pool: Any, replica: Any, load_s: Any) -> None:
    replica.phase = LOADING
    replica.left_load_s = load_s[int(_uniform(pool) * load_s.shape[0])]


@_jit
def _start(pool: Any, replicas: Any, load_s: Any, missing: int) -> None:
    for r in range(pool.size):
        if missing > 0 and replicas[r].leaving:
            replicas[r].leaving = 0
            missing -= 1
    for r in range(pool.size):
        if missing > 0 and replicas[r].phase == OFF:
            _begin_loading(pool, replicas[r], load_s)
            pool.starts += 1
            missing -= 1


@_jit
def _stop(pool: Any, replicas: Any, surplus: int) -> None:
    # First what loads, then what is idle, then what works.
    for wanted in range(3):
        for r in range(pool.size):
            if surplus == 0:
                return
            replica = replicas[r]
            if replica.phase == OFF or replica.leaving:
                continue
            rank = 0 if replica.phase == LOADING else (2 if replica.running else 1)
            if rank == wanted:
                replica.leaving = 1
                surplus -= 1


@_jit
def _take(pool: Any, replica: Any, slots: Any, jobs: Any) -> None:
    for k in range(pool.slots):
        waiting = pool.come - pool.head
        if waiting == 0:
            return
        if slots[k].job != NO_JOB:
            continue
        alone = replica.running == 0 and waiting < pool.slots
        if alone and pool.time_s - jobs[pool.head].arrival_s < pool.delay_s:
            return
        slots[k].job = pool.head
        slots[k].left_work_s = jobs[pool.head].work_s
        slots[k].started_s = pool.time_s
        pool.head += 1
        replica.running += 1


@_jit
def _work(pool: Any, replica: Any, slots: Any, jobs: Any, relative_time: float) -> None:
    done_s = pool.step_s / (relative_time * (1.0 + pool.stretch * (replica.running - 1)))
    if replica.temp_c > pool.hot_c:
        done_s *= HEAT_SLOWDOWN
    for k in range(pool.slots):
        if slots[k].job == NO_JOB:
            continue
        slots[k].left_work_s -= done_s
        if slots[k].left_work_s <= 0:
            job = jobs[slots[k].job]
            end_s = pool.time_s + pool.step_s * (1.0 + slots[k].left_work_s / done_s)
            pool.new_completions += 1
            pool.new_service_s += (end_s - slots[k].started_s) / replica.running
            if end_s - job.arrival_s > job.allowed_s + pool.step_s:
                pool.new_late += 1
            slots[k].job = NO_JOB
            replica.running -= 1


@_jit
def _fail(pool: Any, replica: Any, slots: Any, jobs: Any, load_s: Any) -> None:
    pool.faults += 1
    _begin_loading(pool, replica, load_s)
    for k in range(pool.slots):
        if slots[k].job != NO_JOB:
            slots[k].left_work_s = jobs[slots[k].job].work_s


@_jit
def _watts(pool: Any, replica: Any, working_w: float) -> Any:
    if replica.running == 0:
        return pool.idle_w
    share = pool.alone
    if pool.slots > 1:
        share += (1.0 - share) * (replica.running - 1) / (pool.slots - 1)
    return pool.idle_w + share * (working_w - pool.idle_w)


@_jit
def _replica(
    pool: Any, replica: Any, slots: Any, jobs: Any, load_s: Any, relative_time: float, working_w: float
) -> Any:
    if replica.leaving and replica.running == 0:
        replica.phase, replica.leaving = OFF, 0
    watts = 0.0
    if replica.phase == LOADING:
        replica.left_load_s -= pool.step_s
        if replica.left_load_s <= 0:
            replica.phase = READY
        else:
            watts = pool.load_w
    if replica.phase == READY and pool.fault_per_s > 0 and _uniform(pool) < pool.fault_per_s * pool.step_s:
        _fail(pool, replica, slots, jobs, load_s)
    if replica.phase == READY:
        if replica.running < pool.slots and not replica.leaving:
            _take(pool, replica, slots, jobs)
        watts = _watts(pool, replica, working_w)
        if replica.running > 0:
            _work(pool, replica, slots, jobs, relative_time)
    if pool.heat_c_per_w > 0:
        steady_c = pool.ambient_c + pool.heat_c_per_w * watts
        replica.temp_c += (steady_c - replica.temp_c) * min(1.0, pool.step_s / HEAT_TIME_S)
        pool.hottest_c = max(pool.hottest_c, replica.temp_c)
    return watts


@_jit
def _apply(pool: Any, replicas: Any, load_s: Any, wanted: int) -> None:
    have = 0
    for r in range(pool.size):
        if replicas[r].phase != OFF and not replicas[r].leaving:
            have += 1
    wanted = min(max(wanted, 0), pool.size)
    if wanted > have:
        _start(pool, replicas, load_s, wanted - have)
    elif wanted < have:
        _stop(pool, replicas, have - wanted)


@_jit
def advance(
    pools: Any, replicas: Any, slots: Any, jobs: Any, curves: Any, loads_s: Any, wanted: Any, cap_w: Any, delay_s: Any
) -> None:
    """Apply one action to each pool and simulate one interval.

    Shapes: pools [P], replicas [P, R], slots [P, R, K], jobs [N + 1] (the last never arrives), curves [P, 3, C]
    (caps in watts, relative time, watts), loads_s [P, L]; wanted replicas, caps and delays [P].
    """
    for p in range(pools.shape[0]):
        pool, curve, load_s = pools[p], curves[p], loads_s[p]
        pool.cap_w = min(max(cap_w[p], curve[0, 0]), curve[0, pool.caps - 1])
        pool.delay_s = max(delay_s[p], 0.0)
        _apply(pool, replicas[p], load_s, wanted[p])
        relative_time = _at_cap(pool.cap_w, curve, 1, pool.caps)
        working_w = _at_cap(pool.cap_w, curve, 2, pool.caps)
        pool.new_arrivals = pool.new_completions = pool.new_late = 0
        pool.new_service_s = pool.new_joules = pool.hottest_c = 0.0
        for _ in range(round(pool.interval_s / pool.step_s)):
            while pool.come < pool.last and jobs[pool.come].arrival_s <= pool.time_s:
                pool.come += 1
                pool.new_arrivals += 1
            watts = 0.0
            for r in range(pool.size):
                if replicas[p, r].phase != OFF or pool.heat_c_per_w > 0:
                    watts += _replica(pool, replicas[p, r], slots[p, r], jobs, load_s, relative_time, working_w)
            pool.new_joules += watts * pool.step_s
            pool.time_s += pool.step_s
        pool.done += pool.new_completions
        pool.late += pool.new_late
        pool.joules += pool.new_joules

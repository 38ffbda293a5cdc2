"""Replay a past time span with every policy on the digital twin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from accelerator_autopilot.contracts.errors import InvalidInputError
from accelerator_autopilot.contracts.messages.commands import FleetPolicy
from accelerator_autopilot.scheduler.domain.fleet_history import DeviceHistory, FleetHistory
from accelerator_autopilot.scheduler.domain.pool_arrays import Action, Ints, PoolFacts, PoolObservations
from accelerator_autopilot.scheduler.domain.power_curves import PowerCurve, curve_of
from accelerator_autopilot.scheduler.policies.builtin import policy_maker
from accelerator_autopilot.scheduler.policies.contract import PoolPolicy
from accelerator_autopilot.scheduler.twin.calibration import (
    JobRuns,
    Minutes,
    calibrated_batching,
    calibrated_curve,
    calibrated_speed,
    mixed,
    pool_model,
    trace_of,
    work_alone_s,
)
from accelerator_autopilot.scheduler.twin.rollout import Outcome, play
from accelerator_autopilot.scheduler.twin.simulation import PoolModel, Trace

DECISION_INTERVAL_S, MAX_DECISIONS = 2.0, 20_000
LEAD_IN_S = 60.0
MIN_JOBS = 20


@dataclass(frozen=True)
class PoolReplay:
    """A past pool, ready to be simulated."""

    pool: str
    model: PoolModel
    trace: Trace
    floor: int
    energy_j: float  # recorded energy of its jobs; NaN where unknown


def interval_s(past: FleetHistory) -> float:
    """Return the interval between decisions in a replay: as in operation, longer for long spans."""
    return max(DECISION_INTERVAL_S, past.length_s / MAX_DECISIONS)


def past_pools(past: FleetHistory, policy: FleetPolicy, ceiling: int | None, slack_s: float | None) -> list[PoolReplay]:
    """Return the pools that ran jobs. Raises InvalidInputError when there are too few jobs."""
    jobs, runs = past.jobs, _runs(past)
    found = []
    # Idle time before the first job says nothing about a policy.
    began_s = max(0.0, float(jobs.submitted_s.min(initial=np.inf)) - LEAD_IN_S)
    for pool in sorted(set(jobs.pool)):
        its = np.array([p == pool for p in jobs.pool])
        if its.sum() < MIN_JOBS:
            continue
        bounds = policy.pool(pool)
        curve = _curve(past, its, runs)
        batching = calibrated_batching(runs.of(its))
        load_s = past.load_s.get(pool, np.zeros(0))
        found.append(
            PoolReplay(
                pool,
                pool_model(
                    curve,
                    ceiling=ceiling or bounds.ceiling,
                    slack_s=slack_s or bounds.target_wait_s,
                    load_s=load_s if len(load_s) else np.array([bounds.load_time_s]),
                    interval_s=interval_s(past),
                    batching=batching,
                ),
                trace_of(jobs.submitted_s[its] - began_s, work_alone_s(curve, batching, runs.of(its))),
                floor=min(bounds.floor, ceiling or bounds.ceiling),
                energy_j=float(np.sum(jobs.energy_j[its])),
            )
        )
    if not found:
        raise InvalidInputError("--from", past.since.isoformat(), f"no pool has run {MIN_JOBS} jobs since then")
    return found


def _curve(past: FleetHistory, its: NDArray[np.bool_], runs: JobRuns) -> PowerCurve:
    """Return the mean curve of the devices that ran these jobs, weighted by jobs."""
    models: dict[str, list[DeviceHistory]] = {}
    ran_on = {past.jobs.device[i] for i in np.flatnonzero(its)}
    for device in past.devices:
        if (device.node, device.device) in ran_on:
            models.setdefault(device.model, []).append(device)
    if not models:
        return curve_of("", None, None)
    curves, parts = [], []
    for devices in models.values():
        names = {(d.node, d.device) for d in devices}
        there = its & np.array([d in names for d in past.jobs.device])
        published = curve_of(devices[0].model, devices[0].power_default_w, devices[0].power_min_w)
        minutes = [Minutes(d.util_pct, d.power_w, d.cap_w) for d in devices]
        curves.append(calibrated_curve(calibrated_speed(published, runs.of(there)), minutes))
        parts.append(float(there.sum()))
    return mixed(curves, np.array(parts))


def _runs(past: FleetHistory) -> JobRuns:
    jobs = past.jobs
    cap_w = np.full(len(jobs.kind), np.nan)
    for device in past.devices:
        known = np.isfinite(device.cap_w)
        its = np.array([d == (device.node, device.device) for d in jobs.device], bool)
        if known.any() and its.any():
            cap_w[its] = np.interp(jobs.started_s[its], device.at_s[known], device.cap_w[known])
    _, kind = np.unique(jobs.kind, return_inverse=True)
    return JobRuns(kind, jobs.batch_size, jobs.work_s * jobs.batch_size, cap_w)


class MinReplicasPolicy:
    """A policy that never goes below the operator's floors, as the governor would enforce."""

    def __init__(self, policy: PoolPolicy, floors: Ints) -> None:
        self.name, self._policy, self._floors = policy.name, policy, floors

    def reset(self, facts: PoolFacts) -> None:
        """Start over with these pools."""
        self._policy.reset(facts)

    def decide(self, seen: PoolObservations) -> Action:
        """Return the policy's action, raised to the floor."""
        action = self._policy.decide(seen)
        return replace(action, replicas=np.maximum(action.replicas, self._floors))


def played(pools: Sequence[PoolReplay], names: Sequence[str], seed: int = 0) -> dict[str, Outcome]:
    """Simulate each policy on all past pools."""
    models, traces = [p.model for p in pools], [p.trace for p in pools]
    floors = np.array([p.floor for p in pools], np.int64)
    return {name: play(partial(_floored, name, floors), models, traces, seed) for name in names}


def _floored(name: str, floors: Ints) -> MinReplicasPolicy:
    return MinReplicasPolicy(policy_maker(name)(), floors)

"""The digital twin: pools, their jobs, and what a policy would observe of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from accelerator_autopilot.scheduler.domain.pool_arrays import Action, Doubles, PoolFacts, PoolObservations
from accelerator_autopilot.scheduler.twin import kernel

SAME_NAME = (
    "size", "slots", "interval_s", "step_s", "idle_w", "load_w", "stretch", "alone", "ambient_c", "heat_c_per_w",
    "hot_c",
)  # fmt: skip


@dataclass(frozen=True)
class PoolModel:
    """One pool of the twin. `curve` is [3, C]: caps in watts (ascending), relative time, watts at work."""

    size: int
    curve: Doubles
    idle_w: float
    load_w: float
    load_s: Doubles  # load times to sample from, any number
    slack_s: float
    interval_s: float = 10.0
    step_s: float = 0.5
    slots: int = 1
    stretch: float = 0.0
    alone: float = 1.0
    faults_per_day: float = 0.0
    ambient_c: float = 25.0
    heat_c_per_w: float = 0.0
    hot_c: float = 90.0
    warm: bool = True  # starts with every replica ready


@dataclass(frozen=True)
class Trace:
    """Jobs of one pool in order of arrival: [N] each."""

    arrival_s: Doubles
    work_s: Doubles

    def allowed_s(self, slack_s: float) -> Doubles:
        """Return the allowed time from arrival to end: twice its work, or its work plus the slack if that is more."""
        allowed: Doubles = np.maximum(2.0 * self.work_s, self.work_s + slack_s)
        return allowed

    def since(self, start_s: float) -> Trace:
        """Return the part after this moment, which becomes zero."""
        first = int(np.searchsorted(self.arrival_s, start_s))
        return Trace(self.arrival_s[first:] - start_s, self.work_s[first:])

    @property
    def length_s(self) -> float:
        """The time until the last arrival."""
        return float(self.arrival_s[-1]) if len(self.arrival_s) else 0.0


def bound_j(model: PoolModel, trace: Trace) -> float:
    """Return a lower bound in joules: each job at its cheapest cap and in a full batch, no idling, no loading."""
    _, relative_time, power_w = model.curve
    allowed_s = trace.allowed_s(model.slack_s)[:, None]
    cheapest = np.full(len(trace.work_s), np.inf)
    for together in range(1, model.slots + 1):
        time_s = trace.work_s[:, None] * relative_time * (1.0 + model.stretch * (together - 1))
        share = model.alone + (1.0 - model.alone) * (together - 1) / max(model.slots - 1, 1)
        joules = time_s * (model.idle_w + share * (power_w - model.idle_w)) / together
        cheapest = np.minimum(cheapest, np.where(time_s <= allowed_s, joules, np.inf).min(axis=1, initial=np.inf))
    return float(cheapest.sum())


class Twin:
    """P pools side by side; `act` simulates one interval."""

    def __init__(self, models: Sequence[PoolModel], traces: Sequence[Trace], seed: int) -> None:
        self.models, self.traces = list(models), list(traces)
        self.curves = _curves(self.models)
        self.loads_s = _loads_s(self.models)
        self.jobs = _jobs(self.models, self.traces)
        self.pools = _pools(self.models, self.traces, seed)
        self.replicas = _replicas(self.models, self.pools)
        self.slots = np.zeros((*self.replicas.shape, int(self.pools["slots"].max())), kernel.SLOT)
        self.slots["job"] = kernel.NO_JOB
        self.bound_j = np.array([bound_j(m, t) for m, t in zip(self.models, self.traces, strict=True)])
        self._last_s = np.array([t.length_s for t in self.traces])

    @property
    def facts(self) -> PoolFacts:
        """Return the facts about the pools that a policy gets."""
        return PoolFacts(
            max_replicas=self.pools["size"].copy(),
            interval_s=self.pools["interval_s"].copy(),
            load_time_s=np.median(self.loads_s, axis=1),
            slack_s=np.array([m.slack_s for m in self.models]),
            slots=self.pools["slots"].copy(),
            idle_w=self.pools["idle_w"].copy(),
            load_w=self.pools["load_w"].copy(),
            cap_w=self.curves[:, 0],
            relative_time=self.curves[:, 1],
            power_w=self.curves[:, 2],
        )

    def seen(self) -> PoolObservations:
        """Return what a policy observes now."""
        pools, replicas = self.pools, self.replicas
        depth = pools["come"] - pools["head"]
        oldest = np.where(depth > 0, self.jobs["arrival_s"][pools["head"]], pools["time_s"])
        done = pools["new_completions"]
        return PoolObservations(
            time_s=pools["time_s"].copy(),
            queue_depth=depth,
            oldest_wait_s=pools["time_s"] - oldest,
            arrivals=pools["new_arrivals"].copy(),
            completions=done.copy(),
            mean_service_s=np.where(done > 0, pools["new_service_s"] / np.maximum(done, 1), np.nan),
            ready=((replicas["phase"] == kernel.READY) & (replicas["leaving"] == 0)).sum(axis=1),
            busy=(replicas["running"] > 0).sum(axis=1),
            loading=(replicas["phase"] == kernel.LOADING).sum(axis=1),
            power_cap_w=pools["cap_w"].copy(),
            power_w=pools["new_joules"] / pools["interval_s"],
        )

    def act(self, action: Action) -> None:
        """Simulate one interval with this action."""
        kernel.advance(
            self.pools,
            self.replicas,
            self.slots,
            self.jobs,
            self.curves,
            self.loads_s,
            action.replicas,
            action.power_cap_w,
            action.batch_delay_s,
        )

    @property
    def ended(self) -> NDArray[np.bool_]:
        """Return [P] whether every job is done, or an hour has passed since the last arrival."""
        pools = self.pools
        ended: NDArray[np.bool_] = pools["done"] >= pools["last"] - pools["first"]
        return ended | (pools["time_s"] > self._last_s + 3600.0)


def _curves(models: Sequence[PoolModel]) -> Doubles:
    most = max(m.curve.shape[1] for m in models)
    return np.stack([np.pad(m.curve, ((0, 0), (0, most - m.curve.shape[1])), mode="edge") for m in models])


def _loads_s(models: Sequence[PoolModel]) -> Doubles:
    # At even quantiles, so that pools with few and with many measured load times fit one array.
    at = (np.arange(256) + 0.5) / 256
    return np.stack([np.quantile(m.load_s, at, method="inverted_cdf") for m in models])


def _jobs(models: Sequence[PoolModel], traces: Sequence[Trace]) -> NDArray[np.void]:
    parts = []
    for model, trace in zip(models, traces, strict=True):
        jobs = np.zeros(len(trace.arrival_s), kernel.JOB)
        jobs["arrival_s"], jobs["work_s"] = trace.arrival_s, trace.work_s
        jobs["allowed_s"] = trace.allowed_s(model.slack_s)
        parts.append(jobs)
    never = np.zeros(1, kernel.JOB)
    never["arrival_s"] = np.inf
    return np.concatenate([*parts, never])


def _pools(models: Sequence[PoolModel], traces: Sequence[Trace], seed: int) -> NDArray[np.void]:
    pools = np.zeros(len(models), kernel.POOL)
    for name in SAME_NAME:
        pools[name] = [getattr(m, name) for m in models]
    pools["caps"] = [m.curve.shape[1] for m in models]
    pools["fault_per_s"] = [m.faults_per_day / 86400.0 for m in models]
    counts = np.array([len(t.arrival_s) for t in traces])
    pools["last"] = np.cumsum(counts)
    pools["first"] = pools["head"] = pools["come"] = pools["last"] - counts
    pools["cap_w"] = [m.curve[0, -1] for m in models]
    pools["random"] = np.random.default_rng(seed).integers(1, 2**63, len(models), dtype=np.uint64)
    return pools


def _replicas(models: Sequence[PoolModel], pools: NDArray[np.void]) -> NDArray[np.void]:
    replicas = np.zeros((len(models), int(pools["size"].max())), kernel.REPLICA)
    exists = np.arange(replicas.shape[1]) < pools["size"][:, None]
    replicas["phase"] = np.where(exists & np.array([m.warm for m in models])[:, None], kernel.READY, kernel.OFF)
    replicas["temp_c"] = (pools["ambient_c"] + pools["heat_c_per_w"] * pools["idle_w"])[:, None]
    return replicas

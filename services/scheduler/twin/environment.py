"""The twin as a Gymnasium vector environment: many random pools, one decision for each per step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.random import Generator
from numpy.typing import NDArray

from accelerator_autopilot.scheduler.policies.action_mapping import OUTPUTS, action, corrected, proposed
from accelerator_autopilot.scheduler.policies.lateness_controller import LatenessController
from accelerator_autopilot.scheduler.policies.network_features import FEATURES, LATE_PRICES, Floats, features
from accelerator_autopilot.scheduler.policies.reserve_parameters import gains, history, shipped_numbers
from accelerator_autopilot.scheduler.twin.simulation import PoolModel, Trace, Twin

PRICE_SHARE, LOWEST_REWARD = 0.1, -10.0
MakePools = Callable[[Generator, int], tuple[list[PoolModel], list[Trace]]]


class TwinEnv(VectorEnv[Floats, Floats, NDArray[Any]]):
    """All pools start and end together. Actions are added to the gains of the tuned rule.

    A pool's reward is minus its energy, in that rule's mean energy of an interval, minus the late jobs times the
    late price, in the rule's energy of a job, scaled to about -1 whatever the pool and the price.
    """

    def __init__(self, make_pools: MakePools, pools: int, decisions: int, seed: int) -> None:
        self.num_envs = pools
        self.single_observation_space = gymnasium.spaces.Box(-10, 10, (len(FEATURES),), np.float32)
        self.single_action_space = gymnasium.spaces.Box(-3, 3, (len(OUTPUTS),), np.float32)
        self.observation_space = batch_space(self.single_observation_space, pools)
        self.action_space = batch_space(self.single_action_space, pools)
        self._make_pools, self._decisions = make_pools, decisions
        self._random = np.random.default_rng(seed)

    def draw_from(self, random: Generator) -> None:
        """Take pools, work and prices of the next reset from here."""
        self._random = random

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Floats, dict[str, Any]]:  # noqa: ARG002
        """Reset to new pools, new work, new prices."""
        if seed is not None:
            self._random = np.random.default_rng(seed)
        models, traces = self._make_pools(self._random, self.num_envs)
        draws = int(self._random.integers(2**31))
        self._score_rule(Twin(models, traces, draws))
        self.twin = Twin(models, traces, draws)
        self._begin(self.twin)
        low, high = np.log(LATE_PRICES)
        self.late_price = np.exp(self._random.uniform(low, high, self.num_envs))
        self._step = 0
        return self._look(), {}

    def step(self, actions: Floats) -> tuple[Floats, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """Decide once for every pool."""
        gains_now = corrected(self._facts, self._rule, actions)
        self.twin.act(action(self._facts, proposed(self._facts, self._seen, self._demand, gains_now)))
        pools = self.twin.pools
        energy = pools["new_joules"] / self._rule_interval_j
        late = pools["new_late"] * self.late_price * self._rule_job_j / self._rule_interval_j
        self._step += 1
        over = np.full(self.num_envs, self._step >= self._decisions)
        observed = self._look()
        # Pools with a high lateness price and single bursts of late jobs must not dominate an update.
        reward = np.maximum(-(energy + late) / (1.0 + PRICE_SHARE * self.late_price), LOWEST_REWARD)
        return observed, reward, np.zeros(self.num_envs, bool), over, {}

    def _begin(self, twin: Twin) -> None:
        self._facts = twin.facts
        self._caution = LatenessController(self.num_envs)
        self._numbers = shipped_numbers().of(self._facts)
        self._history = history(self._facts, self._numbers)

    def _look(self) -> Floats:
        self._seen = self.twin.seen()
        self._demand = self._history.observe(self._seen)
        caution = self._caution.observe(self._demand)
        self._rule = gains(self._numbers, caution)
        return features(self._facts, self._seen, self._demand, self._rule, caution, self.late_price)

    def _score_rule(self, twin: Twin) -> None:
        self._begin(twin)
        for _ in range(self._decisions):
            seen = twin.seen()
            demand = self._history.observe(seen)
            rule = gains(self._numbers, self._caution.observe(demand))
            twin.act(action(self._facts, proposed(self._facts, seen, demand, rule)))
        self._rule_interval_j = np.maximum(twin.pools["joules"] / self._decisions, 1.0)
        self._rule_job_j = twin.pools["joules"] / np.maximum(twin.pools["done"], 1)

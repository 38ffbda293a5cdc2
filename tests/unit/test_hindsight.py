"""What would have been enough: replays of a pool's own past, quick and slow loads, and the rule that uses both."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accelerator_autopilot.scheduler.domain.pool_arrays import PoolFacts, PoolObservations
from accelerator_autopilot.scheduler.policies.builtin import policy_maker
from accelerator_autopilot.scheduler.policies.scale_up_rule import ScaleUpRule
from accelerator_autopilot.scheduler.policies.startup_readiness import MIN_READY_SHARE, StartupLatency, starts_for_one
from accelerator_autopilot.scheduler.policies.whatif_sizing import SMALLEST, WhatIfParameters, WhatIfSizing
from accelerator_autopilot.scheduler.twin.rollout import play
from accelerator_autopilot.scheduler.twin.simulation import PoolModel, Trace

NUMBERS = WhatIfParameters(margin=1.0, doubt=0.0, doubt_s=600.0, late_goal=0.01, memory_s=3600.0)
SIZE = 40


def facts(pools: int = 1, slack_s: float = 10.0) -> PoolFacts:
    each = np.ones(pools)
    curve = np.tile([[100.0, 200.0]], (pools, 1))
    return PoolFacts(
        max_replicas=np.full(pools, SIZE), interval_s=10.0 * each, load_time_s=30.0 * each, slack_s=slack_s * each,
        slots=np.ones(pools, np.int64), idle_w=50.0 * each, load_w=80.0 * each,
        cap_w=curve, relative_time=np.tile([[1.4, 1.0]], (pools, 1)), power_w=curve,
    )  # fmt: skip


def looks(arrivals: list[int], **counts: int) -> list[PoolObservations]:
    """One pool's looks, ten seconds apart."""
    zero = np.zeros(1, np.int64)
    empty = PoolObservations(
        time_s=np.zeros(1), queue_depth=zero, oldest_wait_s=np.zeros(1), arrivals=zero, completions=zero,
        mean_service_s=np.full(1, np.nan), ready=zero, busy=zero, loading=zero, power_cap_w=np.full(1, 200.0),
        power_w=np.zeros(1),
    )  # fmt: skip
    more = {name: np.full(1, count) for name, count in counts.items()}
    return [replace(empty, arrivals=np.full(1, n), **more) for n in arrivals]


def enough(
    arrivals: list[int], numbers: WhatIfParameters = NUMBERS, *, prompt: float = 0.0, reacts: float = 0.0
) -> float:
    """After these arrivals, of two seconds of work each."""
    one = np.ones(1)
    hindsight = WhatIfSizing(facts(), numbers, ScaleUpRule(1.5 * reacts * one, reacts * one, one), 1e9 * one, one)
    told = np.zeros(1)
    for seen in looks(arrivals):
        told = hindsight.observe(seen, 2.0 * one, prompt * one, np.zeros(1))
    return float(told[0])


class TestHindsight:
    def test_steady_work_needs_its_own_replicas_and_little_more(self) -> None:
        assert 9 <= enough([50] * 60) <= 14, "ten are busy all the time"

    def test_a_burst_asks_for_what_would_have_served_it_within_the_slack(self) -> None:
        bursts = ([0] * 9 + [150]) * 6
        # 300 s of work within the ten seconds in which it comes and the ten that it may wait.
        assert 13 <= enough(bursts) <= 20
        assert enough(bursts) > 2 * enough([15] * 60), "the same work, evenly"

    def test_quick_loads_spare_what_would_have_to_be_held(self) -> None:
        rising = ([0] * 9 + [20, 150, 150]) * 6
        quick, slow = (enough(rising, prompt=prompt, reacts=1.0) for prompt in (0.9, 0.0))
        assert quick < 0.8 * slow

    def test_what_is_long_ago_counts_for_less(self) -> None:
        burst = [0] * 20 + [180] + [20] * 300
        kept, forgotten = (enough(burst, replace(NUMBERS, memory_s=memory_s)) for memory_s in (1e9, 120.0))
        assert forgotten < kept

    def test_doubt_asks_for_more_and_fades(self) -> None:
        doubting = replace(NUMBERS, doubt=1.0)
        few, many = ([0] * 9 + [120]) * 2, ([0] * 9 + [120]) * 60
        assert enough(few, doubting) > 1.3 * enough(few)
        assert enough(many, doubting) < enough(few, doubting)

    @settings(max_examples=60, deadline=None)
    @given(arrivals=st.lists(st.integers(0, 10**6), min_size=1, max_size=40), prompt=st.floats(0, 1))
    def test_whatever_came_it_stays_within_the_pool(self, arrivals: list[int], prompt: float) -> None:
        assert SMALLEST * SIZE - 1e-9 <= enough(arrivals, prompt=prompt) <= SIZE + 1e-9


class TestPromptness:
    def test_it_learns_which_share_is_ready_by_the_next_look(self) -> None:
        promptness, told = StartupLatency(facts()), np.zeros(1)
        for _ in range(30):
            for ready, loading in ((4, 0), (6, 8), (4, 0)):
                told = promptness.observe(looks([0], ready=ready, loading=loading)[0])
        assert told[0] == pytest.approx(0.2, abs=0.02), "two of ten"

    def test_a_pool_that_is_found_warm_says_nothing_of_loads(self) -> None:
        promptness = StartupLatency(facts())
        first = promptness.observe(looks([0], ready=64)[0])
        assert promptness.observe(looks([0], ready=64)[0]) == first

    def test_more_is_started_where_some_are_quick(self) -> None:
        one = np.ones(1)
        assert starts_for_one(0.25 * one, one) == pytest.approx(4.0)
        assert starts_for_one(0.25 * one, 0 * one) == pytest.approx(1.0)
        assert starts_for_one(0.5 * MIN_READY_SHARE * one, one) < 2


class TestShortSlack:
    """Where models load slower than jobs may wait."""

    steady = Trace(np.arange(0.0, 3000.0, 0.2), np.full(15_000, 5.0))
    model = PoolModel(
        120, np.array([[100.0, 250.0], [1.4, 1.0], [100.0, 230.0]]), idle_w=70.0, load_w=100.0,
        load_s=np.array([3.0, 22.0, 35.0]), slack_s=10.0,
    )  # fmt: skip

    @pytest.mark.parametrize("policy", ["reserve", "learned"])
    def test_steady_work_is_served_without_holding_the_whole_pool(self, policy: str) -> None:
        played = play(policy_maker(policy), [self.model], [self.steady], 1)
        rules = [play(policy_maker(n), [self.model], [self.steady], 1) for n in ("energy_sweep", "queue_lag")]
        assert played.in_time[0] >= 0.99
        assert played.ratio_to_bound[0] < min(rule.ratio_to_bound[0] for rule in rules)

    def test_a_pool_that_is_found_warm_is_not_emptied_at_the_first_look(self) -> None:
        at_once = Trace(np.concatenate([np.arange(1.0, 9.0, 0.4), self.steady.arrival_s + 60.0]), np.full(15_020, 5.0))
        played = play(policy_maker("reserve"), [self.model], [at_once], 1)
        assert played.course[:3, 2].sum() == 0, "no job is late because everything was switched off"

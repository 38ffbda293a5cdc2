"""What is remembered of pools: demand over sliding windows, histories that policies share, the last looks at each."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from accelerator_autopilot.contracts.errors import UnavailableError
from accelerator_autopilot.contracts.messages.commands import FleetPolicy
from accelerator_autopilot.scheduler.application.observation_snapshot import ObservationSnapshot
from accelerator_autopilot.scheduler.domain.batch_delay_lease import LEASE_S, BatchDelays
from accelerator_autopilot.scheduler.domain.observation_arrays import COLUMNS
from accelerator_autopilot.scheduler.domain.power_capping import caps
from accelerator_autopilot.scheduler.policies.builtin import policy_maker
from accelerator_autopilot.scheduler.policies.demand import WINDOWS_S, DemandHistory
from accelerator_autopilot.scheduler.policies.policy_warmup import POOLS_PER_BLOCK, PolicyWarmup
from accelerator_autopilot.scheduler.policies.reserve_parameters import history, shipped_numbers
from accelerator_autopilot.scheduler.policies.shadow_policies import ShadowPolicies
from accelerator_autopilot.scheduler.policies.sliding_window import LastValues
from tests.support.builders import at
from tests.unit.test_hindsight import facts, looks
from tests.unit.test_scheduler import board, seen


@pytest.mark.parametrize("period_s", [10.0, 60.0, 400.0])
def test_peaks_and_rates_over_each_window_are_those_of_the_whole_past(period_s: float) -> None:
    pools, arrivals = 3, np.random.default_rng(1).integers(0, 30, (400, 3))
    of = replace(facts(pools), interval_s=np.full(pools, period_s))
    remembered, offered, now = history(of, shipped_numbers().of(of)), [], []
    for count, came in enumerate(arrivals, 1):
        (look,) = looks([0])
        # `enough` needs one row a pool of everything.
        one = {name: np.repeat(value, pools) for name, value in vars(look).items() if name != "late_weight"}
        told = remembered.observe(replace(look, **one | {"arrivals": came, "busy": came}))
        offered.append(told.offered)
        now.append(told.now)
        for window, long_s in enumerate(WINDOWS_S):
            periods = max(1, round(long_s / period_s))
            assert told.peak[:, window].tolist() == np.max(offered[-periods:], axis=0).tolist()
            assert told.peak_now[:, window].tolist() == np.max(now[-periods:], axis=0).tolist()
            past = arrivals[max(0, count - periods) : count]
            assert told.rate[:, window] == pytest.approx(past.sum(axis=0) / (len(past) * period_s))


def test_the_last_values_come_newest_first_for_ever() -> None:
    last = LastValues(1, 3)
    for number in range(1, 20):
        told = last.push(np.full(1, float(number)))
        assert told[:, 0].tolist() == [float(max(0, number - back)) for back in range(3)]


def test_policies_that_remember_the_same_take_each_look_in_once(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Any] = []
    observe = DemandHistory.observe
    monkeypatch.setattr(DemandHistory, "observe", lambda self, look: taken.append(self) or observe(self, look))
    names = ("reserve", "learned")
    together = ShadowPolicies({name: policy_maker(name) for name in names}, 10.0)
    alone = {name: ShadowPolicies({name: policy_maker(name)}, 10.0) for name in names}
    random = np.random.default_rng(3)
    for second in range(40):
        look = [seen(10.0 * second, pool=p, waiting=int(random.integers(9)), arrivals=4) for p in "ab"]
        taken.clear()
        told = together.propose(look)
        assert len(taken) == 1
        for name in names:
            expected = alone[name].propose(look)
            assert all(told[pool].by(name) == expected[pool].by(name) for pool in "ab")


def columns(*numbers: float) -> np.ndarray:
    return np.tile(np.array(numbers, float), (len(COLUMNS), 1))


def test_the_last_looks_at_each_pool_are_kept_and_no_more() -> None:
    looks_at = PolicyWarmup(900.0)  # four an hour
    pools = [f"p{i}" for i in range(POOLS_PER_BLOCK + 5)]
    for number in range(6):
        there = [pool if number % 2 == 0 or index else None for index, pool in enumerate(pools)]
        looks_at.add(there, columns(*(number + index / 1000 for index in range(len(pools)))))
    kept = looks_at.kept()
    assert kept["p0"][:, 0].tolist() == [0.0, 2.0, 4.0], "it was not there each time"
    assert kept[pools[-1]][:, 0] == pytest.approx([2.26, 3.26, 4.26, 5.26])
    assert [len(group) for group in looks_at.group_by_length(["p0", "p1", "new"])] == [1, 1, 1]
    looks_at.forget_all_but(["p1"])
    looks_at.add(["p1", "fresh"], columns(9.0, 9.0))
    assert {pool: len(rows) for pool, rows in looks_at.kept().items()} == {"p1": 4, "fresh": 1}
    again = PolicyWarmup(900.0)
    again.restore(looks_at.kept())
    again.add(["p1"], columns(10.0))
    assert again.kept()["p1"][-2:, 0].tolist() == [9.0, 10.0]
    assert len(again.shown(["p1", "fresh"])) == 1
    with pytest.raises(ValueError, match="columns"):
        again.restore({"p": np.zeros((2, 3), np.float32)})


async def test_an_hour_of_looks_is_copied_beside_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    runner, threads = ShadowPolicies({}, 2.0), []
    runner.looks.add(["p"], columns(1.0))
    kept = runner.looks.kept
    monkeypatch.setattr(runner.looks, "kept", lambda: threads.append(threading.current_thread()) or kept())

    async def refuse(*_: object) -> None:
        raise UnavailableError("away")

    monkeypatch.setattr("accelerator_autopilot.scheduler.application.observation_snapshot.write_object", refuse)
    await ObservationSnapshot(None, runner, "me").keep()  # type: ignore[arg-type]
    assert threads
    assert threading.main_thread() not in threads


def test_caps_that_were_set_together_are_not_renewed_together() -> None:
    devices = [("n", f"g{i}") for i in range(4_000)]
    of_all = {
        "devices": devices, "rows": {}, "rows_of_node": {}, "rows_of_model": lambda _: np.zeros(0, np.intp),
        "simulated": np.ones(4_000, bool), "default_w": np.full(4_000, 250.0), "lowest_w": np.full(4_000, 100.0),
        "wanted_w": np.full(4_000, 150.0), "now_w": np.full(4_000, 150.0), "ours_w": np.full(4_000, 150.0),
    }  # fmt: skip
    set_at_s = np.full(4_000, at(0).timestamp())
    renewed = []
    for second in range(2, 240, 2):
        due = caps(board(**of_all, ours_at_s=set_at_s), FleetPolicy(), at(second), lease_s=60.0)
        renewed.append(len(due))
        for decision in due:
            set_at_s[int(decision.device[1][1:])] = at(second).timestamp()
        assert at(second).timestamp() - set_at_s.min() <= 32.0, "half of the lease is left to try again"
    assert max(renewed) < 600
    assert max(renewed[60:]) < 450, "and less and less so"


def test_pools_that_were_told_together_are_not_told_again_together() -> None:
    delays, pools = BatchDelays(), [f"p{i}" for i in range(1_000)]
    told_at = dict.fromkeys(pools, 0)
    for pool in pools:
        delays.record_sent(pool, 0.5, at(0))
    for second in range(2, 60, 2):
        due = [pool for pool in pools if delays.due(pool, 0.5, at(second))]
        assert len(due) < 500
        for pool in due:
            told_at[pool] = second
            delays.record_sent(pool, 0.5, at(0) + timedelta(seconds=second))
        assert second - min(told_at.values()) <= LEASE_S / 2

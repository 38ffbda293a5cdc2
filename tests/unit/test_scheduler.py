"""Governor, drains, caps, budgets, placement and the champion."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accelerator_autopilot.contracts.messages.commands import FleetPolicy, PoolPolicy, PowerBudget, TimedValue
from accelerator_autopilot.contracts.messages.jobs import PoolStatus, WorkerStatus
from accelerator_autopilot.scheduler.domain.champion_challenger import (
    ChampionChallenger,
    Choice,
    ExpectedRange,
    Replayed,
    choose,
)
from accelerator_autopilot.scheduler.domain.drain_decisions import drains
from accelerator_autopilot.scheduler.domain.governor import Governor
from accelerator_autopilot.scheduler.domain.job_energy import NodeEfficiency
from accelerator_autopilot.scheduler.domain.latest_readings import Readings
from accelerator_autopilot.scheduler.domain.observation import PoolObservation, Proposal
from accelerator_autopilot.scheduler.domain.placement import NodeRoom, spread
from accelerator_autopilot.scheduler.domain.power_budget import Limit, allocate_power
from accelerator_autopilot.scheduler.domain.power_capping import DeviceCapState, caps
from accelerator_autopilot.scheduler.domain.power_curves import curve_of
from accelerator_autopilot.scheduler.domain.time_of_day import mean_of, value_at
from tests.support.builders import at


def seen(seconds: float = 0.0, bounds: PoolPolicy | None = None, **more: Any) -> PoolObservation:
    base = {
        "pool": "p", "at": at(seconds), "desired": 1, "ready": 1, "starting": 0, "busy": 0, "waiting": 0,
        "oldest_wait_s": 0.0, "arrivals": 0, "completions": 0, "service_s": 0.1, "load_time_s": 5.0, "power_w": 0.0,
        "bounds": bounds or PoolPolicy(), "curve": curve_of("V100", 250.0, 100.0),
    }  # fmt: skip
    return PoolObservation(**(base | more))


def proposal(replicas: int) -> Proposal:
    return Proposal("test", replicas, 0.0, "backlog")


class TestGovernor:
    def test_up_at_once_and_down_after_a_while(self) -> None:
        governor, bounds = Governor(), PoolPolicy(ceiling=8, step_up=8, step_down=8, scale_down_after_s=30)
        assert governor.judge(seen(0, bounds), proposal(4)).replicas == 4
        for second in range(1, 31):
            verdict = governor.judge(seen(second, bounds, desired=4, ready=4), proposal(1))
            assert (verdict.replicas, verdict.reason) == (None, "waiting_to_scale_down")
        assert governor.judge(seen(32, bounds, desired=4, ready=4), proposal(1)).replicas == 1

    def test_one_action_in_flight_but_not_for_ever(self) -> None:
        governor = Governor()
        governor.judge(seen(0), proposal(2))
        assert governor.judge(seen(1), proposal(3)).reason == "waiting_to_settle"
        assert governor.judge(seen(2, desired=2, starting=1), proposal(3)).replicas == 3, "taken, though it loads"
        assert governor.judge(seen(16), proposal(4)).reason == "waiting_to_settle"
        assert governor.judge(seen(18), proposal(4)).replicas == 4, "a pool that does not answer is asked again"

    def test_commands_that_time_out_again_and_again_open_the_breaker_for_a_while(self) -> None:
        governor = Governor()
        reasons = [governor.judge(seen(second), proposal(3)).reason for second in range(0, 130, 4)]
        assert "breaker_open" in reasons
        opened = reasons.index("breaker_open")
        assert set(reasons[opened : opened + 14]) == {"breaker_open"}
        assert reasons[opened + 16] != "breaker_open"

    def test_what_an_operator_set_is_left_alone_until_the_hold_ends(self) -> None:
        governor, bounds = Governor(), PoolPolicy(ceiling=8, manual_hold_s=60)
        governor.manual("p", at(10))
        assert governor.judge(seen(30, bounds), proposal(4)).reason == "manual_change"
        assert governor.judge(seen(71, bounds), proposal(4)).replicas == 4

    def test_a_manual_size_outside_the_bounds_is_brought_back(self) -> None:
        governor, bounds = Governor(), PoolPolicy(ceiling=2)
        governor.manual("p", at(0))
        assert governor.judge(seen(1, bounds, desired=9, ready=9), proposal(9)).replicas == 2

    def test_a_policy_that_dithers_is_slowed_down(self) -> None:
        governor = Governor()
        bounds = PoolPolicy(floor=0, ceiling=8, scale_down_after_s=0, actions_per_min=3, step_down=8)
        desired, changes = 1, 0
        for second in range(50):
            verdict = governor.judge(seen(second, bounds, desired=desired, ready=desired), proposal(5 - desired))
            if verdict.replicas is not None:
                desired, changes = verdict.replicas, changes + 1
        assert changes == 3

    @given(
        wishes=st.lists(st.integers(-5, 10**6), min_size=1, max_size=60), floor=st.integers(0, 5),
        extra=st.integers(0, 10), up=st.integers(1, 5), down=st.integers(1, 5), rate=st.integers(1, 60),
        settles=st.lists(st.booleans(), min_size=60, max_size=60), manual=st.sets(st.integers(0, 60), max_size=3),
    )  # fmt: skip
    def test_no_policy_gets_past_the_operators_limits(
        self, wishes: list[int], floor: int, extra: int, up: int, down: int, rate: int, settles: list[bool],
        manual: set[int],
    ) -> None:  # fmt: skip
        governor, desired, changed_at, set_at = Governor(), floor, [], None
        bounds = PoolPolicy(
            floor=floor, ceiling=floor + extra, step_up=up, step_down=down, scale_down_after_s=2, actions_per_min=rate,
            manual_hold_s=10,
        )  # fmt: skip
        for second, wish in enumerate(wishes):
            if second in manual:
                desired, set_at = floor, second
                governor.manual("p", at(second))
            starting = 0 if settles[second] else 1
            now = seen(second, bounds, desired=desired, ready=desired, starting=starting)
            verdict = governor.judge(now, proposal(wish))
            if verdict.replicas is None:
                continue
            assert set_at is None or second - set_at >= 10, "hands off what an operator set"
            assert floor <= verdict.replicas <= floor + extra
            assert -down <= verdict.replicas - desired <= up
            assert verdict.replicas != desired
            changed_at.append(second)
            assert sum(second - s < 60 for s in changed_at) <= rate
            desired = verdict.replicas

    def test_a_ceiling_that_is_lowered_is_obeyed_at_once(self) -> None:
        verdict = Governor().judge(seen(desired=9, ready=9, bounds=PoolPolicy(ceiling=2)), proposal(9))
        assert (verdict.replicas, verdict.reason) == (2, "at_ceiling")

    def test_numbers_that_are_none_change_nothing(self) -> None:
        verdict = Governor().judge(seen(), Proposal("test", float("nan"), 0.0, "backlog"))  # type: ignore[arg-type]
        assert (verdict.replicas, verdict.reason) == (None, "absurd_data")


class TestDrains:
    fleet = [("n", f"d{i}") for i in range(4)]

    def test_critical_drains_and_health_restores_only_what_we_drained(self) -> None:
        decided = drains([("n", "d0")], [("n", "d1")], [("n", "d1"), ("n", "d2")], self.fleet, FleetPolicy())
        assert [(d.device[1], d.action) for d in decided] == [("d0", None), ("d1", "restore")]
        decided = drains([("n", "d0")], [], [], self.fleet, FleetPolicy())
        assert [(d.device[1], d.action, d.reason) for d in decided] == [("d0", "drain", "critical_alert")]

    def test_the_breaker_keeps_half_of_the_fleet(self) -> None:
        decided = drains(self.fleet, [], [], self.fleet, FleetPolicy(max_drained_fraction=0.5))
        assert [d.action for d in decided] == ["drain", "drain", None, None]
        assert decided[-1].reason == "too_many_drained"

    def test_a_device_drained_by_hand_stays_out(self) -> None:
        assert drains([], [], [("n", "d0")], self.fleet, FleetPolicy()) == []


def board(**more: Any) -> DeviceCapState:
    """Two devices on two nodes, 250 W each, uncapped; nobody wants anything."""
    base = {
        "devices": [("n1", "g"), ("n2", "g")], "rows": {("n1", "g"): 0, ("n2", "g"): 1},
        "rows_of_node": {"n1": [0], "n2": [1]},
        "rows_of_model": lambda model: np.flatnonzero(np.array(["V100", "A40"]) == model),
        "simulated": np.array([True, True]),
        "default_w": np.full(2, 250.0), "lowest_w": np.full(2, 100.0),
        "wanted_w": np.full(2, np.nan), "ours_w": np.full(2, np.nan), "ours_at_s": np.full(2, np.nan),
    }  # fmt: skip
    now_w = np.array(more.pop("now_w", [250.0, 250.0]))
    given = {k: np.array(v) if isinstance(v, list) else v for k, v in more.items()}
    return DeviceCapState(reported_w=lambda rows: now_w[rows], **(base | given))


def decided(policy: FleetPolicy, seconds: float = 100.0, **more: Any) -> list[tuple[str, float | None, str]]:
    return [(d.device[0], d.cap_w, d.reason) for d in caps(board(**more), policy, at(seconds), lease_s=60.0)]


class TestCaps:
    def test_what_a_policy_wants_is_capped_renewed_and_lifted(self) -> None:
        policy, sent_s = FleetPolicy(), at(0).timestamp()
        assert decided(policy, wanted_w=[150.0, np.nan]) == [("n1", 150.0, "cap_cheapest")]
        held = {"now_w": [150.0, 250.0], "ours_w": [150.0, np.nan], "ours_at_s": [sent_s, np.nan]}
        assert decided(policy, 20.0, wanted_w=[150.0, np.nan], **held) == []
        assert decided(policy, 40.0, wanted_w=[150.0, np.nan], **held) == [("n1", 150.0, "cap_renewed")]
        assert decided(policy, 40.0, **held) == [("n1", None, "cap_lifted_for_backlog")]

    def test_a_cap_of_an_operator_is_left_alone(self) -> None:
        assert decided(FleetPolicy(), now_w=[180.0, 250.0], wanted_w=[150.0, np.nan]) == []

    def test_power_off_and_real_devices_without_leave_are_left_alone(self) -> None:
        assert decided(FleetPolicy(power="off"), wanted_w=[150.0, 150.0]) == []
        real = [False, True]
        assert decided(FleetPolicy(power="simulated"), wanted_w=[150.0, 150.0], simulated=real) == [
            ("n2", 150.0, "cap_cheapest")
        ]

    def test_a_device_that_tells_no_cap_is_not_commanded(self) -> None:
        assert decided(FleetPolicy(), now_w=[np.nan, 250.0], wanted_w=[150.0, np.nan]) == []

    def test_limits_of_devices_models_nodes_and_the_fleet_hold_by_time_of_day(self) -> None:
        by_model = FleetPolicy(device_max_w={"A40": 200.0, "n1/g": 180.0})
        assert decided(by_model) == [("n1", 180.0, "cap_device_limit"), ("n2", 200.0, "cap_device_limit")]
        budget = FleetPolicy(budgets=[PowerBudget(watts=400.0), PowerBudget(watts=150.0, nodes=["n1"])])
        assert decided(budget) == [("n1", 150.0, "cap_budget")]
        night = FleetPolicy(budgets=[PowerBudget(watts=300.0, start="22:00", end="06:00")])
        assert len(decided(night, (23 - at(0).hour) * 3600.0)) == 2
        assert decided(night, (12 - at(0).hour) * 3600.0) == []
        too_little = FleetPolicy(budgets=[PowerBudget(watts=50.0)])
        assert {reason for _, _, reason in decided(too_little)} == {"budget_below_minimum"}

    @given(
        wanted=st.lists(st.floats(50, 400), min_size=3, max_size=12), watts=st.floats(10, 3000),
        narrow=st.floats(10, 1000),
    )  # fmt: skip
    def test_shared_watts_stay_under_every_limit_that_can_be_met(
        self, wanted: list[float], watts: float, narrow: float
    ) -> None:
        lowest = np.full(len(wanted), 60.0)
        limits = [Limit(watts, np.arange(len(wanted))), Limit(narrow, np.arange(2))]
        shared = allocate_power(np.array(wanted), lowest, limits)
        assert (shared.cap_w >= lowest - 1e-9).all()
        assert (shared.cap_w <= np.maximum(wanted, lowest) + 1e-9).all()
        for limit in limits:
            possible = max(limit.watts, float(lowest[limit.members].sum()))
            assert shared.cap_w[limit.members].sum() <= possible + 1e-6


class TestSpread:
    def test_new_workers_go_where_a_device_is_free_and_idle_nodes_stay_idle(self) -> None:
        rooms = [NodeRoom("a", "gpu", 2, 4), NodeRoom("b", "gpu", 0, 4)]
        assert spread(4, rooms, {}) == {"a": 4, "b": 0}
        assert spread(6, rooms, {}) == {"a": 4, "b": 2}

    def test_the_node_with_the_fewest_is_emptied_first_and_the_hot_one_before_it(self) -> None:
        assert spread(3, [NodeRoom("a", "gpu", 3, 4), NodeRoom("b", "gpu", 1, 4)], {}) == {"a": 3, "b": 0}
        hot = [NodeRoom("a", "gpu", 3, 4, hottest_c=95), NodeRoom("b", "gpu", 1, 4)]
        assert spread(3, hot, {}) == {"a": 2, "b": 1}

    def test_sick_nodes_get_nothing_and_without_a_healthy_one_nothing_moves(self) -> None:
        assert spread(2, [NodeRoom("a", "gpu", 2, 0), NodeRoom("b", "gpu", 0, 1)], {}) == {"a": 0, "b": 2}
        assert spread(5, [NodeRoom("a", "gpu", 2, 0)], {}) == {"a": 2}

    def test_of_two_nodes_alike_the_one_that_needs_fewer_joules_is_first(self) -> None:
        rooms = [NodeRoom("a", "gpu", 0, 4, joules_per_job=300.0), NodeRoom("b", "gpu", 0, 4, joules_per_job=120.0)]
        assert spread(2, rooms, {}) == {"a": 0, "b": 2}

    def test_joules_of_a_job_are_those_of_the_devices_that_worked(self) -> None:
        def part(done: int, busy_s: float) -> PoolStatus:
            worker = WorkerStatus(
                worker="p-1", device="gpu-0+gpu-1", pid=1, state="ready", started_at=at(0), jobs_done=done,
                busy_s=busy_s, running=["j"],
            )  # fmt: skip
            return PoolStatus(pool="p", node="n", at=at(0), desired=1, kinds=["echo"], workers=[worker])

        efficiency, draw = (
            NodeEfficiency(),
            Readings.of({("n", "gpu-0"): 200.0, ("n", "gpu-1"): 100.0, ("n", "gpu-2"): 900.0}),
        )
        assert efficiency.update(part(0, 0.0), draw) == 0.0, "not known yet"
        assert efficiency.update(part(2, 4.0), draw) == pytest.approx(2.0 * 300)
        assert efficiency.update(part(2, 5.0), draw) == pytest.approx(600), "nothing ended"
        assert efficiency.update(part(4, 13.0), Readings.of({})) == pytest.approx(600), "nobody told what was drawn"
        assert efficiency.update(part(6, 21.0), draw) == pytest.approx(600 + 0.2 * (4.0 * 300 - 600))

    def test_shares_of_kinds_are_kept(self) -> None:
        rooms = [NodeRoom("a", "gpu", 0, 8), NodeRoom("b", "cpu", 0, 8)]
        assert spread(10, rooms, {"gpu": 0.7, "cpu": 0.3}) == {"a": 7, "b": 3}
        assert spread(10, rooms, {}) == {"a": 10, "b": 0}

    @given(
        replicas=st.integers(0, 40),
        rooms=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4), st.sampled_from(["gpu", "cpu"])), min_size=1),
        gpu=st.floats(0, 1),
    )
    def test_every_worker_has_a_place_and_none_is_on_a_sick_node(
        self, replicas: int, rooms: list[tuple[int, int, str]], gpu: float
    ) -> None:
        made = [NodeRoom(f"n{i}", kind, workers, devices) for i, (workers, devices, kind) in enumerate(rooms)]
        placed = spread(replicas, made, {"gpu": gpu, "cpu": 1 - gpu})
        if any(room.devices for room in made):
            assert sum(placed.values()) == replicas
            assert all(placed[room.node] == 0 for room in made if not room.devices)


class TestTimetable:
    def test_values_by_time_of_day(self) -> None:
        table = [TimedValue(start="22:00", end="06:00", value=0.1), TimedValue(start="06:00", end="22:00", value=0.3)]
        day = at(0).replace(hour=0, minute=0)
        assert value_at(table, day.replace(hour=23), 9) == 0.1
        assert value_at(table, day.replace(hour=6), 9) == 0.3
        assert value_at([], day, 9) == 9
        assert mean_of(table, 9) == pytest.approx((8 * 0.1 + 16 * 0.3) / 24)


def replayed(joules: float, late: float = 0.0, blocks: int = 24, spread_by: float = 0.1) -> Replayed:
    noise = np.random.default_rng(3).normal(0, spread_by, blocks)
    return Replayed(joules * 100 * (1 + noise), np.full(blocks, 100.0), np.full(blocks, 100.0 * late))


class TestChampion:
    def test_a_challenger_that_surely_saves_energy_in_time_is_promoted(self) -> None:
        chosen = choose("queue_lag", {"queue_lag": replayed(100), "learned": replayed(70), "static": replayed(300)})
        assert (chosen.champion, round(chosen.saving, 2)) == ("learned", 0.3)
        assert 0 < chosen.saving_low <= chosen.saving + 1e-9

    def test_one_that_is_late_is_not_whatever_it_saves(self) -> None:
        assert choose("a", {"a": replayed(100), "b": replayed(50, late=0.02)}).champion == "a"

    def test_a_saving_that_may_be_chance_promotes_nobody(self) -> None:
        noise = np.random.default_rng(4).normal(0, 40, 24)
        near = Replayed(replayed(100).joules * 0.999 + noise * 100, np.full(24, 100.0), np.zeros(24))
        assert choose("a", {"a": replayed(100), "b": near}).champion == "a"

    def test_little_history_promotes_nobody(self) -> None:
        chosen = choose("a", {"a": replayed(100, blocks=3), "b": replayed(10, blocks=3)})
        assert (chosen.champion, "3 blocks" in chosen.why) == ("a", True)

    def test_a_late_champion_gives_way(self) -> None:
        replays = {"a": replayed(50, late=0.2), "b": replayed(90), "c": replayed(200)}
        assert choose("a", replays).champion == "b"

    def test_a_champion_outside_its_band_falls_until_the_next_replay(self) -> None:
        champion_challenger = ChampionChallenger(
            "learned", "reserve", ExpectedRange(in_time_low=0.97, joules_high=120.0)
        )
        for _ in range(5):
            assert champion_challenger.live(100, 10, 9000.0) is None
        assert "learned" in (champion_challenger.live(100, 10, 9000.0) or "")
        assert champion_challenger.deciding == "reserve"
        champion_challenger.select(Choice("learned", "won again"), ExpectedRange(0.9, 200.0))
        assert champion_challenger.deciding == "learned"
        assert all(champion_challenger.live(100, 1, 9000.0) is None for _ in range(20))


@pytest.mark.parametrize("mode", ["advise", "approve", "observe"])
def test_what_is_only_advised_waits_for_nobody_and_opens_no_breaker(mode: Any) -> None:
    governor, bounds = Governor(), PoolPolicy(ceiling=8, autonomy=mode)
    reasons = {governor.judge(seen(second, bounds), proposal(8)).reason for second in range(0, 120, 2)}
    assert reasons <= {"step_limited", "backlog"}
    governor = Governor()
    reasons = {governor.judge(seen(second), proposal(4), acts=False).reason for second in range(0, 120, 2)}
    assert "waiting_to_settle" not in reasons


def test_a_verdict_that_nobody_heard_is_not_waited_for() -> None:
    governor = Governor()
    assert governor.judge(seen(0), proposal(2)).replicas == 2
    governor.not_sent("p")
    assert governor.judge(seen(1), proposal(2)).replicas == 2

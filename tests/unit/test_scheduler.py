"""Forecast, policy, governor, drains and caps."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.scheduler.domain.devices import caps, drains
from services.scheduler.domain.forecast import HoltForecast
from services.scheduler.domain.governor import Governor
from services.scheduler.domain.observation import PoolObservation, Proposal
from services.scheduler.domain.policies import make_policy
from shared.errors import SettingsError
from shared.messages.commands import FleetPolicy, PoolPolicy
from tests.support.builders import at, device


def seen(seconds: float = 0.0, bounds: PoolPolicy | None = None, **more: Any) -> PoolObservation:
    base = {
        "pool": "p", "at": at(seconds), "desired": 1, "ready": 1, "starting": 0, "backlog": 0, "arrival_rate": 0.0,
        "service_s": 0.1, "bounds": bounds or PoolPolicy(),
    }  # fmt: skip
    return PoolObservation(**(base | more))


def proposal(replicas: int) -> Proposal:
    return Proposal(replicas, "backlog", {}, full_power=False)


class TestForecast:
    def test_it_settles_on_a_constant_and_follows_a_ramp(self) -> None:
        steady, ramp = HoltForecast(), HoltForecast()
        for second in range(200):
            steady.observe(5.0, at(second))
            ramp.observe(float(second), at(second))
        assert steady.ahead(10) == pytest.approx(5.0, abs=0.01)
        assert ramp.ahead(10) > 195

    @given(st.lists(st.floats(0, 1e6), max_size=50))
    def test_it_is_never_negative(self, values: list[float]) -> None:
        forecast = HoltForecast()
        for second, value in enumerate(values):
            forecast.observe(value, at(second))
        assert forecast.ahead(60) >= 0


class TestForecastingPolicy:
    def test_a_backlog_asks_for_enough_to_clear_it_in_the_target_wait(self) -> None:
        wanted = make_policy("forecasting").propose(seen(backlog=300, bounds=PoolPolicy(target_wait_s=5)))
        assert wanted.replicas == 6
        assert wanted.reason == "backlog"
        assert wanted.full_power
        assert wanted.evidence["backlog"] == 300

    def test_nothing_to_do_asks_for_nothing(self) -> None:
        assert make_policy("forecasting").propose(seen(desired=3)).replicas == 0

    def test_an_unknown_policy_names_those_there_are(self) -> None:
        with pytest.raises(SettingsError, match="forecasting"):
            make_policy("crystal-ball")


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
        assert governor.judge(seen(14, desired=2, starting=1), proposal(3)).reason == "waiting_to_settle"
        assert governor.judge(seen(16, desired=2, starting=1), proposal(3)).replicas == 3

    @given(
        wishes=st.lists(st.integers(0, 50), min_size=1, max_size=40), floor=st.integers(0, 5), extra=st.integers(0, 10),
        up=st.integers(1, 5), down=st.integers(1, 5),
    )  # fmt: skip
    def test_no_policy_gets_past_floor_ceiling_and_steps(
        self, wishes: list[int], floor: int, extra: int, up: int, down: int
    ) -> None:
        governor, desired = Governor(), floor
        bounds = PoolPolicy(floor=floor, ceiling=floor + extra, step_up=up, step_down=down, scale_down_after_s=2)
        for second, wish in enumerate(wishes):
            verdict = governor.judge(seen(second, bounds, desired=desired, ready=desired), proposal(wish))
            if verdict.replicas is not None:
                assert floor <= verdict.replicas <= floor + extra
                assert -down <= verdict.replicas - desired <= up
                assert verdict.replicas != desired
                desired = verdict.replicas

    def test_a_ceiling_that_is_lowered_is_obeyed_at_once(self) -> None:
        verdict = Governor().judge(seen(desired=9, ready=9, bounds=PoolPolicy(ceiling=2)), proposal(9))
        assert (verdict.replicas, verdict.reason) == (2, "at_ceiling")


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


class TestCaps:
    key = ("n", "gpu-0")

    def decide(self, now_w: float, ours: Any = None, seconds: float = 0, **more: Any) -> list[Any]:
        policy = FleetPolicy(**({"cap_fraction": 0.8} | more.pop("policy", {})))
        return caps(
            {self.key: device(**more.pop("info", {}))}, {self.key: now_w}, {self.key: ours} if ours else {}, policy,
            full_power=more.pop("full_power", False), now=at(seconds), lease_s=60,
        )  # fmt: skip

    def test_caps_while_nothing_waits_lifts_when_jobs_do_and_renews(self) -> None:
        assert self.decide(250)[0].cap_w == 200
        assert self.decide(200, (200.0, at(0)), full_power=True)[0].cap_w is None
        assert self.decide(200, (200.0, at(0)), seconds=10) == []
        assert self.decide(200, (200.0, at(0)), seconds=31)[0].reason == "cap_renewed"

    def test_an_operators_cap_and_forbidden_devices_are_left_alone(self) -> None:
        assert self.decide(150) == []
        assert self.decide(250, info={"simulated": False}) == []
        assert self.decide(250, policy={"power": "off"}) == []
        assert self.decide(250, policy={"cap_fraction": None}) == []

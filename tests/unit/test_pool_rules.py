"""The pure rules of pools to the value: dependencies, placement, throttling and trust in devices."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from accelerator_autopilot.contracts.messages.alerts import Severity
from accelerator_autopilot.inference.pool.domain.device_trust import DeviceTrust
from accelerator_autopilot.inference.pool.domain.job_dependencies import DependencyIndex
from accelerator_autopilot.inference.pool.domain.placement import Changes, idle_devices, plan
from accelerator_autopilot.inference.pool.domain.stream_fill_alarm import severity_of
from accelerator_autopilot.inference.pool.domain.throttling import share, speed


class TestDependencies:
    def index(self, **waits: str) -> DependencyIndex[str]:
        made: DependencyIndex[str] = DependencyIndex()
        for job_id, other in waits.items():
            made.put(job_id, other, f"message of {job_id}")
        return made

    def test_all_that_wait_for_one_are_told_in_order_and_leave(self) -> None:
        index = self.index(c="x", b="x", d="y")
        assert index.pop_dependents("x") == ["message of b", "message of c"]
        assert (len(index), index.pop_dependents("x"), index._for) == (1, [], {"y": {"d"}})

    def test_a_job_that_waits_for_another_than_before_is_told_of_that_only(self) -> None:
        index = self.index(b="x", c="x")
        index.put("b", "y", "newer")
        assert (index.pop_dependents("x"), index.pop_dependents("y")) == (["message of c"], ["newer"])

    def test_what_is_forgotten_leaves_the_others_waiting_and_no_trace(self) -> None:
        index = self.index(b="x", c="x", d="y")
        index.forget("b")
        index.forget("unknown")
        assert index._for == {"x": {"c"}, "y": {"d"}}
        index.forget("c")
        assert (index._for, len(index)) == ({"y": {"d"}}, 1)


class TestPlacement:
    def test_surplus_workers_leave_the_fullest_device_the_youngest_first(self) -> None:
        workers = {"w1": "a", "w2": "b", "w3": "b", "w4": "b", "w5": "a"}
        assert plan(2, "ab", set(), workers) == Changes(drain=["w4", "w5", "w3"])
        assert plan(0, "ab", set(), {"w1": "a"}).drain == ["w1"]
        assert plan(5, "ab", set(), workers) == Changes()

    def test_starting_counts_before_idle_and_idle_before_load(self) -> None:
        workers = {"w1": "a", "w2": "b", "w3": "b"}
        assert plan(2, "ab", set(), workers, busy={"w2", "w3"}).drain == ["w1"]
        assert plan(2, "ab", set(), workers, busy={"w1"}, starting={"w1"}).drain == ["w1"]

    def test_new_workers_level_out_and_equals_go_in_the_devices_order(self) -> None:
        assert plan(5, "ba", set(), {"w1": "b"}).start == ["a", "b", "a", "b"]
        assert plan(4, "ba", set(), {"w1": "b"}).start == ["a", "b", "a"]
        assert plan(3, "ab", {"a", "b"}, {"w1": "a"}) == Changes(drain=["w1"])
        assert plan(1, "a", set(), {"w1": "gone"}) == Changes(drain=["w1"], start=["a"])

    def test_a_plan_is_a_value(self) -> None:
        with pytest.raises(FrozenInstanceError):
            Changes().drain = []  # type: ignore[misc]

    def test_devices_that_rest_move_in_order_and_only_to_healthy_ones(self) -> None:
        assert idle_devices("abcd", set(), {"a", "b"}, ["a", "b"]) == {"a", "b"}
        assert idle_devices("cba", set(), {"b", "c"}, ["b", "c"]) == {"c"}
        assert idle_devices("abc", {"a"}, {"a", "b"}, ["a", "b"]) == {"b"}


class TestStreamFill:
    @pytest.mark.parametrize(
        ("ratio", "current", "expected"),
        [
            (0.0, None, None),
            (0.799, None, None),
            (0.80, None, "warning"),
            (0.949, None, "warning"),
            (0.95, None, "critical"),
            (0.95, "warning", "critical"),
            (1.0, "critical", "critical"),
            (0.92, "warning", "warning"),
            (0.901, "critical", "critical"),
            (0.95 - 0.05, "critical", "critical"),
            (0.899, "critical", "warning"),
            (0.80 - 0.05, "warning", "warning"),
            (0.80 - 0.05, "critical", "warning"),
            (0.749, "warning", None),
            (0.749, "critical", None),
            (0.76, None, None),
        ],
    )
    def test_an_alarm_holds_until_the_fill_has_dropped_well_below(
        self, ratio: float, current: Severity | None, expected: Severity | None
    ) -> None:
        assert severity_of(ratio, current) == expected


class TestThrottling:
    @pytest.mark.parametrize(
        ("sample", "alert", "default_w", "expected"),
        [
            ({"temp_margin_c": 5.0}, None, None, 1.0),
            ({"temp_margin_c": 4.99}, None, None, 0.5),
            ({"temp_margin_c": 0.01}, None, None, 0.5),
            ({"temp_margin_c": 0.0}, None, None, 0.0),
            ({"temp_margin_c": -3.0}, None, None, 0.0),
            ({"clock_event_reasons": 0x20}, None, None, 0.5),
            ({"clock_event_reasons": 0x80}, None, None, 0.5),
            ({"clock_event_reasons": 0x1 | 0x2 | 0x4 | 0x8 | 0x10 | 0x100}, None, None, 1.0),
            ({"power_cap_w": 100.0}, None, 400.0, 1.0),
            ({"power_cap_w": 100.0, "clock_event_reasons": 0x8}, None, 400.0, 1.0),
            ({"power_cap_w": 240.0, "clock_event_reasons": 0x4}, None, 400.0, 1.0),
            ({"power_cap_w": 239.0, "clock_event_reasons": 0x4}, None, 400.0, 239 / 400),
            ({"power_cap_w": 160.0, "clock_event_reasons": 0x5}, None, 400.0, 0.4),
            ({"power_cap_w": 10.0, "clock_event_reasons": 0x4}, None, 400.0, 0.25),
            ({"power_cap_w": 200.0, "clock_event_reasons": 0x4 | 0x20}, None, 350.0, 0.5),
            ({"power_cap_w": 100.0, "clock_event_reasons": 0x4}, "warning", 250.0, 0.4),
            ({"power_cap_w": 0.0, "clock_event_reasons": 0x4}, None, 400.0, 1.0),
            ({"power_cap_w": 10.0, "clock_event_reasons": 0x4}, None, 0.0, 1.0),
            ({"power_cap_w": 10.0, "clock_event_reasons": 0x4}, None, None, 1.0),
        ],
    )
    def test_what_a_worker_may_take(
        self, sample: dict[str, float], alert: Severity | None, default_w: float | None, expected: float
    ) -> None:
        assert share(sample, alert, default_w) == expected

    @pytest.mark.parametrize(
        ("sample", "most_mhz", "expected"),
        [
            ({"clock_sm_mhz": 600.0, "gpu_util_pct": 5.0}, 1200.0, 0.5),
            ({"clock_sm_mhz": 600.0, "gpu_util_pct": 4.99}, 1200.0, None),
            ({"clock_sm_mhz": 600.0}, 1200.0, None),
            ({"clock_sm_mhz": 1300.0, "gpu_util_pct": 90.0}, 1200.0, 1.0),
            ({"clock_sm_mhz": 0.0, "gpu_util_pct": 90.0}, 1200.0, None),
            ({"clock_sm_mhz": 600.0, "gpu_util_pct": 90.0}, 0.0, None),
        ],
    )
    def test_how_fast_it_is(self, sample: dict[str, float], most_mhz: float, expected: float | None) -> None:
        assert speed(sample, most_mhz) == expected


class TestDeviceTrust:
    def test_one_failure_of_a_fresh_process_is_not_enough_and_a_kind_of_another_job_proves_nothing(self) -> None:
        trust = DeviceTrust()
        trust.tripped("b", ["embed"])
        trust.tripped("a", ["embed", "echo"])
        assert trust.suspected == ["a", "b"]
        trust.succeeded("c", ["echo", "other"], after_failing_on=["a", "nobody"])
        assert trust.broken == []
        trust.tripped("a", [])
        trust.tripped("b", ["embed"])
        assert trust.broken == ["a"]
        trust.succeeded("c", ["other"], after_failing_on=["b"])
        assert trust.broken == ["a"]
        trust.succeeded("c", ["embed"], after_failing_on=["b", "a"])
        assert trust.broken == ["a", "b"]
        trust.tripped("a", [])
        assert trust.broken == ["a", "b"]

    def test_proof_adds_up_over_successes_and_kinds_over_failures(self) -> None:
        trust = DeviceTrust()
        trust.tripped("a", ["echo"])
        trust.tripped("a", ["embed"])
        trust.succeeded("b", ["echo"], after_failing_on=["a"])
        trust.succeeded("b", ["other"], after_failing_on=["a"])
        assert trust.broken == ["a"]
        assert trust._suspects["a"].kinds == {"echo", "embed"}

    def test_with_each_failure_more_is_needed_to_suspect_it_again_until_nothing_does(self) -> None:
        trust, patience = DeviceTrust(), []
        for _ in range(5):
            patience.append(trust.suspect_after("a"))
            trust.tripped("a", ["echo"])
        assert patience == [3, 3, 30, 0, 0]
        trust.forget("a")
        trust.forget("a")
        assert (trust.suspected, trust.suspect_after("a")) == ([], 3)
        trust.succeeded("never seen", ["echo"])
        trust.tripped("b", [])
        trust.succeeded("b", [])
        assert trust.suspected == []

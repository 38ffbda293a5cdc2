"""What is made of the past: pools of the twin, advice, effects, the report."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from accelerator_autopilot.contracts.errors import InvalidInputError
from accelerator_autopilot.contracts.messages.commands import FleetPolicy, PoolPolicy
from accelerator_autopilot.scheduler.application.twin_replay import past_pools, played
from accelerator_autopilot.scheduler.commands.advisor import advise, effect, recommendation, running_at_once
from accelerator_autopilot.scheduler.commands.report_page import page
from accelerator_autopilot.scheduler.domain.fleet_history import DeviceHistory, FleetHistory, JobHistory
from accelerator_autopilot.scheduler.domain.power_curves import curve_of
from accelerator_autopilot.scheduler.twin.calibration import (
    JobRuns,
    Minutes,
    calibrated_batching,
    calibrated_curve,
    calibrated_speed,
    mixed,
    work_alone_s,
)

START = datetime(2026, 1, 1, tzinfo=UTC)
HOURS = 4.0


def jobs(count: int = 400, **more: Any) -> JobHistory:
    random = np.random.default_rng(0)
    submitted = np.sort(random.uniform(0, HOURS * 3600, count))
    work = random.lognormal(0.5, 0.5, count)
    base = {
        "pool": ["default"] * count, "kind": ["embed"] * count, "device": [("n", "gpu-0")] * count,
        "submitted_s": submitted, "started_s": submitted + 1.0, "finished_s": submitted + 1.0 + work, "work_s": work,
        "batch_size": np.ones(count, np.int64), "energy_j": np.full(count, 300.0),
    }  # fmt: skip
    return JobHistory(**(base | more))


def past_device(name: str = "gpu-0", util_pct: float = 90.0, power_w: float = 240.0, **more: Any) -> DeviceHistory:
    minutes = int(HOURS * 60)
    noise = np.random.default_rng(1).normal(0, 1, minutes)
    base = {
        "node": "n", "device": name, "model": "Tesla V100", "simulated": True, "memory_bytes": 16.0 * 2**30,
        "power_min_w": 100.0, "power_default_w": 250.0, "at_s": np.arange(minutes) * 60.0,
        "util_pct": np.full(minutes, util_pct), "power_w": power_w + noise, "cap_w": np.full(minutes, 250.0),
        "memory_used_bytes": np.full(minutes, 12.0 * 2**30), "temp_c": np.full(minutes, 60.0),
    }  # fmt: skip
    return DeviceHistory(**(base | more))


def past(devices: list[DeviceHistory] | None = None, its: JobHistory | None = None) -> FleetHistory:
    there = devices or [past_device()]
    factors = {"price_per_kwh": 0.5, "co2_g_per_kwh": 400.0}
    return FleetHistory(
        START,
        START + timedelta(hours=HOURS),
        its or jobs(),
        there,
        {"default": np.array([2.0, 9.0])},
        factors,
        np.array([sum(float(d.power_w[i : i + 60].sum()) * 60 for d in there) for i in range(0, 240, 60)]),
    )


class TestCalibration:
    def runs(self, bend: float, count: int = 200) -> JobRuns:
        published = curve_of("Tesla V100", 250.0, 100.0)
        cap_w = np.where(np.arange(count) % 2 == 0, 250.0, 150.0)
        slow = np.interp(cap_w, published.cap_w, published.relative_time) ** bend
        return JobRuns(
            np.zeros(count, np.intp),
            np.ones(count, np.int64),
            3.0 * slow * np.random.default_rng(4).lognormal(0, 0.1, count),
            cap_w,
        )

    @pytest.mark.parametrize("bend", [0.4, 1.0, 2.0])
    def test_speeds_at_caps_are_those_that_jobs_had(self, bend: float) -> None:
        published = curve_of("Tesla V100", 250.0, 100.0)
        measured = calibrated_speed(published, self.runs(bend))
        at_150 = np.interp(150.0, published.cap_w, published.relative_time) ** bend
        assert np.interp(150.0, measured.cap_w, measured.relative_time) == pytest.approx(at_150, rel=0.04)

    def test_too_few_jobs_and_unknown_caps_change_nothing(self) -> None:
        published = curve_of("Tesla V100", 250.0, 100.0)
        assert calibrated_speed(published, self.runs(2.0, 20)) is published
        unknown = replace(self.runs(2.0), cap_w=np.full(200, np.nan))
        assert calibrated_speed(published, unknown) is published

    def test_batches_are_as_large_and_as_slow_as_they_were(self) -> None:
        sizes = np.random.default_rng(4).choice([1, 2, 8], 300)
        runs = JobRuns(np.zeros(300, np.intp), sizes, 2.0 * (1 + 0.05 * (sizes - 1)), np.full(300, np.nan))
        slots, stretch = calibrated_batching(runs)
        assert (slots, stretch) == (8, pytest.approx(0.05, rel=0.01))
        assert calibrated_batching(replace(runs, batch_size=np.ones(300, np.int64))) == (1, 0.0)
        assert work_alone_s(curve_of("", None, None), (slots, stretch), runs) == pytest.approx(2.0)

    def test_a_pool_of_two_models_is_their_mean_at_the_same_power_level(self) -> None:
        v100, a40 = curve_of("Tesla V100", 250.0, 100.0), curve_of("A40", 300.0, 100.0)
        both = mixed([v100, a40], np.array([1.0, 3.0]))
        assert both.idle_w == pytest.approx(0.25 * v100.idle_w + 0.75 * a40.idle_w)
        for level in (0.0, 0.5, 1.0):
            watts = [np.interp(c.cap_at(level), c.cap_w, c.power_w) for c in (v100, a40)]
            expected = 0.25 * watts[0] + 0.75 * watts[1]
            cap_w = 0.25 * v100.cap_at(level) + 0.75 * a40.cap_at(level)
            assert np.interp(cap_w, both.cap_w, both.power_w) == pytest.approx(expected, rel=0.02)
        assert mixed([v100], np.ones(1)) is v100

    def test_the_past_becomes_pools_with_the_speeds_and_batches_that_it_had(self) -> None:
        cap_w = np.where(np.arange(int(HOURS * 60)) < HOURS * 30, 250.0, 150.0)
        its = jobs(800)
        half = its.submitted_s > HOURS * 1800
        run_s = np.where(half, 2.6, 2.0) * 1.0
        sizes = np.where(np.arange(800) % 4 == 0, 4, 1)
        run_s = run_s * (1 + 0.1 * (sizes - 1))
        its = replace(its, work_s=run_s / sizes, batch_size=sizes, kind=["embed"] * 800)
        (pool,) = past_pools(past([past_device(cap_w=cap_w)], its), FleetPolicy(), None, None)
        assert (pool.model.slots, pool.model.stretch) == (4, pytest.approx(0.1, abs=0.02))
        caps, relative_time, _ = pool.model.curve
        assert np.interp(150.0, caps, relative_time) == pytest.approx(1.3, abs=0.03)
        assert pool.trace.work_s.mean() == pytest.approx(2.0, abs=0.05), "alone and at full power"
        assert pool.model.load_s.tolist() == [2.0, 9.0]


class TestAdvice:
    def kinds(self, its: FleetHistory, policy: FleetPolicy | None = None) -> dict[str, Any]:
        return {a.kind: a for a in advise(its, policy or FleetPolicy())}

    def test_a_healthy_fleet_gets_none(self) -> None:
        capped = past_device(cap_w=np.full(int(HOURS * 60), 150.0), power_w=150.0)
        assert self.kinds(past([capped])) == {}

    def test_an_idle_device_is_worth_its_idle_watts(self) -> None:
        found = self.kinds(past([past_device(util_pct=0.0, power_w=70.0)]))["idle_device"]
        assert found.saving == pytest.approx(70 * 24 / 1000, rel=0.01)
        assert found.low <= found.saving <= found.high
        assert found.command == "autopilot drain gpu-0 drain"

    def test_a_busy_device_at_full_power_is_worth_a_cap(self) -> None:
        found = self.kinds(past())["cap"]
        assert found.low < found.saving <= found.high
        assert found.saving == pytest.approx(240 * 24 / 1000 * 0.236, rel=0.1), "a V100 saves about 23 % there"

    def test_a_floor_above_all_need_is_too_much(self) -> None:
        policy = FleetPolicy(pools={"default": PoolPolicy(floor=8, ceiling=8)})
        found = self.kinds(past(), policy)["over_provisioned"]
        assert found.saving > 0
        assert "--floor" in found.command
        assert running_at_once(past(), "default").max() <= 4

    def test_kinds_that_waited_in_small_batches_could_have_shared(self) -> None:
        work = np.where(np.arange(400) % 2, 1.0, 0.4)
        batches = np.where(np.arange(400) % 2, 1, 8)
        slow = jobs(work_s=work, batch_size=batches, started_s=jobs().submitted_s + 5.0)
        found = self.kinds(past(its=slow))["batch"]
        assert found.saving == pytest.approx(0.6 * 0.5, abs=0.01)

    def test_jobs_that_came_together_and_ran_alone_could_wait_for_company(self) -> None:
        work = np.where(np.arange(400) % 2, 1.0, 0.4)
        pairs = np.repeat(np.arange(200) * 60.0, 2) + np.tile([0.0, 0.1], 200)
        batches = np.where(np.arange(400) % 2, 8, 1)
        near = jobs(work_s=work[::-1], batch_size=batches, submitted_s=pairs, started_s=pairs)
        found = self.kinds(past(its=near))["batch"]
        assert found.command == "autopilot policy --pool default --batch-delay-s 0.2"
        apart = replace(near, submitted_s=np.arange(400) * 30.0, started_s=np.arange(400) * 30.0)
        assert "batch" not in self.kinds(past(its=apart))

    def test_a_kind_that_is_cheaper_on_another_accelerator_should_run_there(self) -> None:
        on_cpu = np.arange(400) % 2 == 0
        names = [("n", "cpu-0" if cpu else "gpu-0") for cpu in on_cpu]
        its = jobs(device=names, work_s=np.where(on_cpu, 4.0, 1.0), energy_j=np.where(on_cpu, 600.0, 150.0))
        devices = [past_device(), past_device("cpu-0", power_default_w=None)]
        found = self.kinds(past(devices, its))["share"]
        assert found.saving == pytest.approx(450 * 200 * 24 / HOURS / 3.6e6, rel=0.01)
        assert found.command == "autopilot policy --share gpu=0.9 --share cpu=0.1"
        slower = replace(its, work_s=np.where(on_cpu, 1.0, 4.0))
        assert "share" not in self.kinds(past(devices, slower)), "fewer joules but later is not advised"

    def test_an_advice_about_a_device_can_be_approved(self) -> None:
        cap = next(a for a in advise(past(), FleetPolicy()) if a.kind == "cap")
        told = recommendation(cap, START)
        assert told.command is not None
        assert (told.subject, told.command["cap_w"]) == ("commands.power.n.gpu-0", cap.value)
        assert cap.command in told.action
        assert told.evidence["low"] <= told.evidence["saving"] <= told.evidence["high"]

    def test_memory_that_is_never_used_is_told(self) -> None:
        found = self.kinds(past([past_device(memory_used_bytes=np.full(int(HOURS * 60), 2.0 * 2**30))]))
        assert found["unused_memory"].saving == pytest.approx(14.0)

    def test_an_effect_has_an_interval(self) -> None:
        told = effect(past(), past([past_device(power_w=180.0)]))
        assert told["watts_per_device"] == pytest.approx(-60, abs=1)
        assert told["watts_per_device_low"] <= told["watts_per_device"] <= told["watts_per_device_high"]


class TestReplay:
    def test_a_past_day_is_played_with_every_policy_that_is_asked_for(self) -> None:
        pools = past_pools(past(), FleetPolicy(), ceiling=6, slack_s=20.0)
        assert [p.pool for p in pools] == ["default"]
        outcomes = played(pools, ["static", "reserve"])
        assert outcomes["reserve"].joules.sum() < outcomes["static"].joules.sum()
        blocks = outcomes["static"].blocks(450)
        assert blocks.jobs.sum() == pytest.approx(400, abs=40)
        assert blocks.joules.shape == blocks.late.shape

    def test_too_few_jobs_say_so(self) -> None:
        with pytest.raises(InvalidInputError, match="no pool has run 20 jobs"):
            past_pools(past(its=jobs(5)), FleetPolicy(), None, None)

    def test_the_curve_moves_to_what_was_measured(self) -> None:
        published = curve_of("V100", 250.0, 100.0)
        told = Minutes(np.repeat([0.0, 100.0], 20), np.repeat([40.0, 200.0], 20), np.full(40, 250.0))
        measured = calibrated_curve(published, [told])
        assert measured.idle_w == 40.0
        assert measured.power_w[-1] == pytest.approx(200.0)
        assert calibrated_curve(published, []) is published

    def test_watts_under_a_cap_are_held_against_those_published_for_it(self) -> None:
        published = curve_of("V100", 250.0, 100.0)
        at_150 = float(np.interp(150.0, published.cap_w, published.power_w))
        told = Minutes(np.full(40, 100.0), np.full(40, 0.9 * at_150), np.full(40, 150.0))
        assert calibrated_curve(published, [told]).power_w == pytest.approx(0.9 * published.power_w)


class TestReport:
    def test_the_page_has_figures_pictures_and_advice_and_no_markup_of_others(self) -> None:
        html = page(past([past_device("<b>gpu</b>", util_pct=0.0, power_w=70.0)]), FleetPolicy())
        assert "0.280 kWh, 0.14 in money, 112 g CO2" in html
        assert html.count("data:image/png;base64,") == 2
        assert "&lt;b&gt;gpu" in html
        assert "<b>gpu</b>" not in html

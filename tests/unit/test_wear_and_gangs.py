"""Wear that will use up what is spare, and devices that hold up the others of their job."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from accelerator_autopilot.anomaly.app import follow_job_groups
from accelerator_autopilot.anomaly.domain.detection_engine import DetectionEngine
from accelerator_autopilot.anomaly.domain.findings import Finding
from accelerator_autopilot.anomaly.domain.metric_columns import matrix
from accelerator_autopilot.anomaly.domain.wear_forecast import DAY_S, MAX_RETIRED_PAGES, paulson
from accelerator_autopilot.contracts.messages.jobs import PoolStatus, WorkerStatus
from tests.support.builders import at
from tests.support.waiting import eventually

START_S = 1_000_000.0
GANG = [("n1", ["gpu-0", "gpu-1", "gpu-2", "gpu-3"])]


def show(watch: DetectionEngine, at_s: float, **columns: list[float]) -> list[Finding]:
    """One tick of a node of four devices."""
    slots = watch.slots("n1", GANG[0][1])
    values = matrix(np.array(list(columns.values()), np.float32).T, tuple(columns))
    when = np.full(4, at_s)
    return watch.rows(slots, when, values, np.full(4, 1.0), when)


class TestWear:
    def told(
        self, watch: DetectionEngine, days: float, pages_a_day: list[float], begin_s: float = START_S
    ) -> list[Finding]:
        found = []
        for hour in range(int(days * 24)):
            pages = [float(int(rate * hour / 24)) for rate in pages_a_day]
            found += show(watch, begin_s + hour * 3600, retired_pages_dbe=pages, retired_pages_sbe=[0.0] * 4)
        return found

    def test_it_tells_when_the_last_spare_goes_with_an_interval(self) -> None:
        found = self.told(DetectionEngine(only=frozenset({"spare_pages"})), 6.0, [0.0, 4.0, 0.2, 0.0])
        assert {f.device for f in found} == {"gpu-1"}
        shown = {e.metric: e.value for e in found[-1].evidence}
        left_d = (MAX_RETIRED_PAGES - 4.0 * 6) / 4.0
        assert shown["in_d"] == pytest.approx(left_d, rel=0.15)
        assert shown["from_d"] < shown["in_d"] < shown["to_d"]
        assert "spare" not in found[-1].summary
        assert "limit of retired memory pages" in found[-1].summary

    def test_the_interval_holds_nine_in_ten(self) -> None:
        random = np.random.default_rng(0)
        for left, events in ((3.0, 4.0), (40.0, 12.0), (500.0, 30.0)):
            drawn = (random.gamma(left, size=200_000) / left) / (random.gamma(events, size=200_000) / events)
            low, high = (float(paulson(np.array([left]), np.array([events]), z)[0]) for z in (-1.645, 1.645))
            assert (drawn < low).mean() == pytest.approx(0.05, abs=0.012)
            assert (drawn > high).mean() == pytest.approx(0.05, abs=0.012)

    def test_what_it_knows_outlives_a_restart(self) -> None:
        before = DetectionEngine(only=frozenset({"spare_pages"}))
        self.told(before, 3.0, [4.0] * 4)
        after = DetectionEngine(only=frozenset({"spare_pages"}), roster=before.roster)
        after.load(before.snapshot())
        later = show(after, START_S + 3 * DAY_S + 3600, retired_pages_dbe=[12.0] * 4, retired_pages_sbe=[0.0] * 4)
        assert len(later) == 4, "at once, not after another day"

    def test_a_snapshot_of_before_there_was_wear_is_still_good(self) -> None:
        watch = DetectionEngine()
        show(watch, START_S, power_w=[100.0] * 4)
        old = {name: t for name, t in watch.snapshot().items() if not name.startswith("wear.")}
        again = DetectionEngine(roster=watch.roster)
        again.load(old)
        assert np.isinf(again.snapshot()["wear.spare_rows.first"]).all()

    def test_another_device_in_its_place_and_a_clock_set_back_begin_anew(self) -> None:
        watch = DetectionEngine(only=frozenset({"spare_pages"}))
        self.told(watch, 3.0, [6.0] * 4)
        assert self.told(watch, 0.5, [0.0] * 4, START_S + 3 * DAY_S) != [], "it says that it is over"
        assert self.told(watch, 0.9, [8.0] * 4, START_S - 9 * DAY_S) == []

    def test_of_a_long_past_the_newer_half_is_kept(self) -> None:
        watch = DetectionEngine(only=frozenset({"spare_rows"}))
        for day in range(90):
            show(watch, START_S + day * DAY_S, remapped_rows=[float(day)] * 4)
        kept = watch.snapshot()
        assert 20 <= (kept["wear.spare_rows.since_s"][0] - START_S) / DAY_S <= 60
        assert 20 <= kept["wear.spare_rows.first"][0] <= 60


class TestGangs:
    LOAD = {"gpu_util_pct": [99.0, 98.0, 100.0, 97.0], "power_w": [400.0] * 4}

    def watch(self) -> DetectionEngine:
        watch = DetectionEngine(only=frozenset({"straggler", "imbalance"}))
        show(watch, START_S, clock_sm_mhz=[1900.0] * 4, **self.LOAD)
        return watch

    def test_the_slow_one_of_a_job_is_named(self) -> None:
        watch = self.watch()
        watch.join(GANG)
        found = []
        for second in range(1, 120):
            found += show(watch, START_S + second, clock_sm_mhz=[1900.0, 1880.0, 1200.0, 1910.0], **self.LOAD)
        assert {(f.device, f.kind) for f in found} == {("gpu-2", "straggler")}
        watch.join([])
        ended = []
        for second in range(120, 240):
            ended += show(watch, START_S + second, clock_sm_mhz=[1900.0, 1880.0, 1200.0, 1910.0], **self.LOAD)
        assert [(f.kind, f.firing) for f in ended][-1] == ("straggler", False), "over when the job is"

    def test_devices_of_different_jobs_are_not_compared(self) -> None:
        watch = self.watch()
        found = []
        for second in range(1, 120):
            found += show(watch, START_S + second, clock_sm_mhz=[1900.0, 1880.0, 1200.0, 1910.0], **self.LOAD)
        watch.join([("n1", ["gpu-2", "gpu-3"]), ("n1", ["gpu-0", "gpu-1"])])
        calm = {"gpu_util_pct": [99.0, 98.0, 10.0, 12.0], "power_w": [400.0] * 4}
        for second in range(120, 600):
            found += show(watch, START_S + second, clock_sm_mhz=[1900.0, 1900.0, 800.0, 820.0], **calm)
        assert found == []

    def test_one_that_does_most_of_the_work_is_named(self) -> None:
        watch = self.watch()
        watch.join(GANG)
        found = []
        for second in range(1, 400):
            found += show(
                watch, START_S + second, gpu_util_pct=[99.0, 12.0, 8.0, 15.0], clock_sm_mhz=[1900.0] * 4,
                power_w=[400.0] * 4,
            )  # fmt: skip
        assert {(f.device, f.kind, f.severity) for f in found} == {("gpu-0", "imbalance", "info")}

    def test_devices_that_left_are_passed_over(self) -> None:
        watch = self.watch()
        watch.join([("n1", ["gpu-0", "gpu-9"]), ("elsewhere", ["gpu-0", "gpu-1"])])
        assert show(watch, START_S + 1, clock_sm_mhz=[100.0] * 4, **self.LOAD) == []


async def test_which_devices_work_together_is_read_from_the_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    def worker(name: str, device: str) -> WorkerStatus:
        return WorkerStatus(worker=name, device=device, pid=1, state="ready", started_at=at(0))

    workers = [worker("p-1", "gpu-0+gpu-1"), worker("p-2", "gpu-2")]
    pool = PoolStatus(pool="p", node="n1", at=at(0), desired=2, kinds=["echo"], workers=workers)
    answers = [OSError("away"), {"p.n1": pool}]

    async def bucket(*_: Any) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    joined: list[Any] = []
    detection = SimpleNamespace(watch=SimpleNamespace(join=lambda job_groups: joined.append(list(job_groups))))
    monkeypatch.setattr("accelerator_autopilot.anomaly.app.bucket_items", bucket)
    monkeypatch.setattr("accelerator_autopilot.anomaly.app.JOB_GROUPS_INTERVAL_S", 0.0)
    following = asyncio.create_task(follow_job_groups(None, detection))  # type: ignore[arg-type]
    await eventually(lambda: joined)
    following.cancel()
    assert joined[0] == [("n1", ["gpu-0", "gpu-1"])]

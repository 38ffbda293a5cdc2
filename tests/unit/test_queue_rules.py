"""The queue's rules without a server: order, needs, dependencies, pressure, batches, admission, references."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from accelerator_autopilot.contracts.errors import InvalidInputError
from accelerator_autopilot.contracts.job_building import Options, address, make_job, make_options
from accelerator_autopilot.contracts.job_output_references import fill_in, wanted_jobs
from accelerator_autopilot.contracts.kinds.base import Input
from accelerator_autopilot.contracts.messages.jobs import Job, JobNeeds, PoolStatus, WorkerStatus
from accelerator_autopilot.inference.jobs.capability import Capability, unschedulable_reason
from accelerator_autopilot.inference.jobs.retry_policy import EndJob, before_attempt
from accelerator_autopilot.inference.kinds.base import RunContext, Tokens
from accelerator_autopilot.inference.pool.application.worker_devices import group
from accelerator_autopilot.inference.pool.domain.job_dependencies import DependencyIndex
from accelerator_autopilot.inference.pool.domain.throttling import share, speed
from accelerator_autopilot.inference.settings import ModelSettings
from accelerator_autopilot.inference.worker.application.batch_execution import run_safely
from accelerator_autopilot.inference.worker.application.model_cache import ModelCache
from accelerator_autopilot.inference.worker.application.scratch_folders import ScratchFolders, sweep_scratch
from accelerator_autopilot.inference.worker.domain.batch_sizing import FORGET_AFTER, BatchSizer
from accelerator_autopilot.inference.worker.domain.priorities import StridePicker, fair_order
from tests.support.builders import T0, device


class TestStridePicker:
    def test_full_queues_share_by_weight(self) -> None:
        picker = StridePicker()
        picks = Counter(picker.next([9, 9, 9]) for _ in range(2100))
        assert picks == {0: 1600, 1: 400, 2: 100}

    def test_a_queue_that_was_empty_saves_up_nothing(self) -> None:
        picker = StridePicker()
        for _ in range(1000):
            picker.next([0, 0, 5])
        picks = Counter(picker.next([5, 0, 5]) for _ in range(170))
        assert picks[0] >= 155

    @given(st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=1, max_size=200))
    def test_it_only_picks_what_is_there_and_starves_nobody(self, states: list[tuple[int, ...]]) -> None:
        picker, waited = StridePicker(), [0, 0, 0]
        for lengths in states:
            chosen = picker.next(lengths)
            assert (chosen is None) == (not any(lengths))
            if chosen is None:
                continue
            assert lengths[chosen]
            for i in range(3):
                waited[i] = 0 if i == chosen or not lengths[i] else waited[i] + 1
            assert max(waited) <= 42


class TestFairOrder:
    def test_submitters_take_turns_and_deadlines_come_first(self) -> None:
        jobs = [("a", 1, None), ("a", 2, None), ("a", 3, 5), ("b", 4, None), ("c", 5, 1)]
        at = {i: T0 + timedelta(seconds=s) for _, i, s in jobs if s}
        order = fair_order(jobs, lambda j: j[0], lambda j: at.get(j[1]))
        assert [j[1] for j in order] == [5, 3, 4, 1, 2]

    @given(st.lists(st.tuples(st.sampled_from("abc"), st.integers()), max_size=50))
    def test_nothing_is_lost(self, jobs: list[tuple[str, int]]) -> None:
        order = fair_order(jobs, lambda j: j[0], lambda _: None)
        assert Counter(order) == Counter(jobs)
        for who in "abc":
            assert [j for j in order if j[0] == who] == [j for j in jobs if j[0] == who]


class TestCapability:
    gpu = Capability(frozenset({"m"}), "gpu", 80, 2)

    @pytest.mark.parametrize(
        ("needs", "lack"),
        [
            (None, None),
            (JobNeeds(model="m", device="gpu", memory_bytes=80, devices=2), None),
            (JobNeeds(model="x"), "model 'x' is not offered"),
            (JobNeeds(device="cpu"), "it needs a cpu"),
            (JobNeeds(devices=3), "it needs 3 devices in one worker, this one has 2"),
            (JobNeeds(memory_bytes=81), "it needs 81 bytes of device memory, this one has 80"),
        ],
    )
    def test_what_a_worker_lacks(self, needs: JobNeeds | None, lack: str | None) -> None:
        assert self.gpu.lacks(needs) == lack

    def test_a_pool_that_is_about_to_start_workers_may_yet_run_it(self) -> None:
        empty = PoolStatus(pool="p", node="n", at=T0, desired=0, kinds=["embed"], workers=[])
        assert unschedulable_reason([empty], "embed", JobNeeds(memory_bytes=10**12)) is None
        assert unschedulable_reason([empty], "echo", None) == "no pool runs 'echo'; there are embed"
        worker = WorkerStatus(worker="w", device="d", pid=1, state="ready", started_at=T0, memory_bytes=5)
        full = empty.model_copy(update={"workers": [worker]})
        assert "no worker can run it: it needs" in (
            unschedulable_reason([full], "embed", JobNeeds(memory_bytes=10**12)) or ""
        )


class TestPressure:
    @pytest.mark.parametrize(
        ("sample", "alert", "expected"),
        [
            ({}, None, 1.0),
            ({"temp_margin_c": 20.0}, "info", 1.0),
            ({"temp_margin_c": 3.0}, None, 0.5),
            ({"temp_margin_c": 0.0}, None, 0.0),
            ({}, "warning", 0.5),
            ({}, "critical", 0.0),
            ({"clock_event_reasons": 0x40}, None, 0.5),
            ({"power_cap_w": 200.0, "clock_event_reasons": 0x4}, None, 0.5),
            ({"power_cap_w": 300.0, "clock_event_reasons": 0x4}, None, 1.0),
        ],
    )
    def test_a_device_in_trouble_gets_less(self, sample: dict[str, float], alert: Any, expected: float) -> None:
        assert share(sample, alert, 400.0) == expected

    def test_a_device_at_work_is_as_fast_as_its_clock_and_one_that_idles_does_not_tell(self) -> None:
        at_work = {"clock_sm_mhz": 1000.0, "gpu_util_pct": 90.0}
        assert speed(at_work, 1250.0) == pytest.approx(0.8)
        assert speed(at_work | {"gpu_util_pct": 0.0}, 1250.0) is None
        assert speed({}, 1250.0) is None
        assert speed(at_work, None) is None


class TestBatchSizer:
    def test_it_halves_when_memory_runs_out_and_remembers(self) -> None:
        sizer = BatchSizer(largest=256, size=64)
        assert sizer.out_of_memory(64) == 32
        for _ in range(50):
            sizer.record(sizer.size, 0.001)
        assert sizer.size == 32
        for _ in range(FORGET_AFTER + 5):
            sizer.record(sizer.size, 0.001)
        assert sizer.size > 32

    def test_the_devices_state_bounds_it(self) -> None:
        sizer = BatchSizer(largest=64, size=10)
        sizer.share = 0.5
        assert sizer.allowed == 5
        sizer.share = 0.0
        assert (sizer.allowed, sizer.prefetches) == (0, False)

    @given(st.lists(st.tuples(st.integers(1, 300), st.floats(0, 10)), max_size=100))
    def test_it_stays_within_its_bounds(self, batches: list[tuple[int, float]]) -> None:
        sizer = BatchSizer(largest=64)
        for count, took_s in batches:
            sizer.record(min(count, sizer.size), took_s)
            assert 1 <= sizer.size <= 64


class OutOfMemoryError(Exception):
    pass


class Number(Input):
    n: int


class Out(BaseModel):
    n: int


class Hungry:
    """Bears three at a time, and fails for 13."""

    name, input, output, max_batch = "hungry", Number, Out, 64

    def __init__(self) -> None:
        self.tried: list[int] = []

    def run(self, inputs: Any, context: RunContext) -> list[BaseModel | Exception]:
        self.tried.append(len(inputs))
        if len(inputs) > 3:
            raise OutOfMemoryError
        if any(i.n == 13 for i in inputs):
            raise ValueError("unlucky")
        for place, item in enumerate(inputs):
            context.tokens[place] = Tokens(prompt=item.n)
        return [Out(n=i.n) for i in inputs]


def test_a_batch_too_large_is_halved_and_one_bad_input_fails_alone() -> None:
    kind, sizer = Hungry(), BatchSizer(largest=64, size=12)
    inputs = [Number(n=n) for n in (1, 2, 13, 4, 5, 6, 7, 8, 9, 10)]
    context = RunContext(models=ModelSettings(), scratch=ScratchFolders(None), attempts=[1] * 10)
    outcomes = run_safely(kind, inputs, context, sizer)
    assert [o.n if isinstance(o, Out) else type(o).__name__ for o in outcomes] == [
        1, 2, "KindFailedError", 4, 5, 6, 7, 8, 9, 10,
    ]  # fmt: skip
    assert sizer.size <= 5
    assert {place: t.prompt for place, t in context.tokens.items()} == {
        i: n.n for i, n in enumerate(inputs) if n.n != 13
    }


class TestWaiting:
    def test_each_is_told_once(self) -> None:
        waiting: DependencyIndex[str] = DependencyIndex()
        waiting.put("b", "a", "message of b")
        waiting.put("c", "a", "old")
        waiting.put("c", "a", "new")
        waiting.put("d", "b", "message of d")
        assert waiting.pop_dependents("a") == ["message of b", "new"]
        assert waiting.pop_dependents("a") == []
        assert len(waiting) == 1
        waiting.forget("d")
        assert waiting.pop_dependents("b") == []


class TestReferences:
    def test_parts_are_filled_in(self) -> None:
        payload = {"a": [{"$result": "j1", "select": "rows.1.x"}], "b": {"$result": "j2"}, "c": 3}
        assert wanted_jobs(payload) == ["j1", "j2"]
        filled = fill_in(payload, {"j1": {"rows": [{}, {"x": 7}]}, "j2": {"y": 1}})
        assert filled == {"a": [7], "b": {"y": 1}, "c": 3}

    @pytest.mark.parametrize("path", ["rows.9", "rows.x", "nothing", "rows.0.x.y"])
    def test_a_path_to_nowhere_is_named(self, path: str) -> None:
        with pytest.raises(InvalidInputError, match=path):
            fill_in({"$result": "j", "select": path}, {"j": {"rows": [{"x": 1}]}})

    @given(
        st.recursive(
            st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
        )
    )
    def test_what_refers_to_nothing_stays_as_it_is(self, payload: Any) -> None:
        if not wanted_jobs(payload):
            assert fill_in(payload, {}) == payload


class TestAddress:
    def job(self, **options: Any) -> Job:
        return make_job("b.1", "echo", {}, make_options(**options), submitter="me", now=T0)

    def test_a_job_waits_for_others_then_for_its_time_then_in_the_queue(self) -> None:
        assert address(self.job(after=["x"], delay_s=60), T0)[:2] == ("JOBS", "waiting.b.1")
        stream, subject, headers = address(self.job(delay_s=60), T0)
        assert (stream, subject) == ("LATER", "later.b.1")
        assert headers["Nats-Schedule-Target"] == "due.b.1"
        assert address(self.job(delay_s=60), T0 + timedelta(seconds=61))[1] == "jobs.echo.normal.b.1"
        assert address(self.job(priority="high"), T0)[1] == "jobs.echo.high.b.1"

    @given(st.integers(1, 10**9))
    def test_it_is_never_let_go_too_early(self, microseconds: int) -> None:
        at = T0 + timedelta(microseconds=microseconds)
        text = address(self.job(at=at), T0)[2]["Nats-Schedule"].removeprefix("@at ")
        assert timedelta(0) <= datetime.fromisoformat(text) - at < timedelta(seconds=1)

    @pytest.mark.parametrize(
        ("options", "field"),
        [({"priority": "urgent"}, "priority"), ({"ttl_s": 0}, "ttl_s"), ({"nonsense": 1}, "nonsense"),
         ({"max_attempts": 99}, "max_attempts"), ({"needs": {"devices": 0}}, "needs.devices")],
    )  # fmt: skip
    def test_a_bad_option_is_named(self, options: dict[str, Any], field: str) -> None:
        with pytest.raises(InvalidInputError, match=field):
            make_options(**options)

    def test_times_beyond_what_the_stream_keeps_are_refused(self) -> None:
        with pytest.raises(InvalidInputError, match="within 7 days"):
            self.job(at=T0 + timedelta(days=8))

    def test_time_to_live_counts_from_when_it_may_begin(self) -> None:
        job = make_job("j", "echo", {}, Options(delay_s=3600, ttl_s=60), submitter="me", now=T0)
        assert before_attempt(job, 1, [], T0 + timedelta(seconds=3630)) is None
        assert before_attempt(job, 1, [], T0 + timedelta(seconds=3661)) == EndJob("expired")


class TestShelf:
    def test_a_model_is_loaded_once_and_room_is_made(self) -> None:
        shelf, loads = ModelCache(), []

        def load(name: str, *, fits_beside: bool = True) -> Any:
            def make() -> str:
                loads.append(name)
                if not fits_beside and len(shelf.names) > 0:
                    raise OutOfMemoryError
                return name

            return make

        assert shelf.get(("encoder", "a"), load("a")) == "a"
        assert shelf.get(("encoder", "a"), load("a")) == "a"
        assert shelf.get(("encoder", "b"), load("b", fits_beside=False)) == "b"
        assert (loads, shelf.names, shelf.crowded) == (["a", "b", "b"], ["b"], False)

    def test_a_model_that_never_fits_asks_for_a_new_process(self) -> None:
        shelf = ModelCache()
        shelf.get(("encoder", "a"), lambda: "a")

        def never() -> str:
            raise MemoryError

        with pytest.raises(Exception, match="the worker restarts"):
            shelf.get(("encoder", "b"), never)
        assert shelf.crowded


def test_folders_of_dead_workers_are_swept(tmp_path: Any) -> None:
    (tmp_path / "autopilot-job-999999999-x").mkdir()
    with ScratchFolders(tmp_path) as scratch:
        (scratch.folder / "f").write_text("x")
        assert sweep_scratch(tmp_path) == 1
        assert scratch.folder.exists()
    assert list(tmp_path.iterdir()) == []


def test_devices_are_grouped_by_model() -> None:
    devices = [device(device=f"d{i}", model="A" if i != 1 else "B") for i in range(5)]
    groups = group(devices, 2)
    assert [g.name for g in groups] == ["d0+d2", "d3+d4"]
    assert T0.tzinfo is UTC

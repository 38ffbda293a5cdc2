"""Limits of runs, what counts against jobs, which devices are trusted, and what passes between worker and pool."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

import pytest

from accelerator_autopilot.contracts.errors import InvalidInputError
from accelerator_autopilot.contracts.messages.jobs import Job, JobError, WorkerStatus
from accelerator_autopilot.inference.errors import (
    DeviceMemoryError,
    KindFailedError,
    ModelLoadError,
    NotConfiguredError,
    RetryableJobError,
)
from accelerator_autopilot.inference.jobs.completion import ClaimedJob
from accelerator_autopilot.inference.jobs.retry_policy import Places, counted
from accelerator_autopilot.inference.jobs.run_journal import RunJournal, RunningJob, open_journal, read_journal
from accelerator_autopilot.inference.jobs.run_time_limit import RunTimeLimit, limit_of
from accelerator_autopilot.inference.pool.application.worker_devices import group
from accelerator_autopilot.inference.pool.application.worker_process import (
    LOADING_SILENT_S,
    MAX_LINE_BYTES,
    WorkerProcess,
)
from accelerator_autopilot.inference.pool.application.worker_supervisor import PoolSupervisor
from accelerator_autopilot.inference.pool.domain.device_trust import DeviceTrust
from accelerator_autopilot.inference.settings import PoolSettings
from accelerator_autopilot.inference.worker.application.batch_execution import judged
from accelerator_autopilot.inference.worker.application.status_pipe import StatusPipe
from accelerator_autopilot.inference.worker.application.suspect_isolation import SuspectIsolation
from accelerator_autopilot.inference.worker.application.worker_state import DEVICE_SUSPECTED, WorkerState
from accelerator_autopilot.transport.clock import utc_now
from tests.support.builders import T0, device


def failed_on(*devices: str) -> list[JobError]:
    return [JobError(attempt=i, type="E", message="m", worker="w", at=T0, device=d) for i, d in enumerate(devices, 1)]


class TestWhatCounts:
    def test_a_batch_has_the_time_of_its_jobs_together_within_the_pools_limit(self) -> None:
        assert limit_of([None], 900) == 900
        assert limit_of([5.0], 900) == 5
        assert limit_of([5.0, None], 900) == 10
        assert limit_of([60.0] * 100, 900) == 900

    def test_one_device_alone_buries_no_job_while_there_is_another(self) -> None:
        errors = failed_on("a", "a", "a")
        assert counted(errors, Places(others=1)) == 1
        assert counted(errors, Places(others=0)) == counted(errors, None) == 3
        assert counted(failed_on("a", "b", "a"), Places(others=1)) == 3

    def test_a_suspected_device_does_not_count_but_not_without_end(self) -> None:
        suspected = Places(others=1, suspected=frozenset({"a"}))
        assert counted(failed_on("a", "b", "a"), suspected) == 1
        assert counted(failed_on(*["a"] * 15), suspected) == 3


def taken(job_id: str, submitter: str = "me", *failed: str) -> ClaimedJob:
    job = Job(id=job_id, kind="echo", priority="normal", submitted_at=T0, submitter=submitter)
    message: Any = None
    return ClaimedJob(message, job, 1, failed_on(*failed))


class TestWhatAWorkerSuspects:
    def state(self) -> WorkerState:
        return WorkerState(RunTimeLimit(RunJournal(None), 900), here="n1/a")

    @pytest.mark.parametrize(
        "error",
        [
            RetryableJobError("was asked to fail"),
            InvalidInputError("text", "x", "is wrong"),
            NotConfiguredError("no model"),
            judged("echo", ValueError("of the input")),
            KindFailedError("echo", "WrongOutputs", "it returned 2 outputs for 1 inputs"),
        ],
        ids=lambda e: getattr(e, "reported_as", type(e).__name__),
    )
    def test_what_jobs_fail_of_by_themselves_never_counts_whoever_submits_them(self, error: Exception) -> None:
        state = self.state()
        for number in range(200):
            state.failed("echo", taken(f"j{number}", f"submitter {number}"), error)
        assert not state.stop.is_set()

    @pytest.mark.parametrize(
        "error", [judged("echo", RuntimeError("CUDA error")), ModelLoadError("m"), DeviceMemoryError("m")]
    )
    def test_different_jobs_that_fail_of_what_may_be_the_device_make_it_suspected(self, error: Exception) -> None:
        state = self.state()
        for number in (0, 0, 0, 1):
            state.failed("echo", taken(f"j{number}"), error)
        assert not state.stop.is_set()
        state.failed("echo", taken("j2"), error)
        assert (state.stop.is_set(), state.exit_code) == (True, DEVICE_SUSPECTED)

    def test_a_job_that_failed_on_another_device_brings_it_along(self) -> None:
        state, error = self.state(), judged("echo", RuntimeError("x"))
        for number in range(9):
            state.failed("echo", taken(f"j{number}", "me", "n1/b"), error)
        assert not state.stop.is_set()

    def test_it_tells_where_jobs_failed_that_succeed_on_it(self) -> None:
        state = self.state()
        state.succeeded("echo", taken("j", "me", "n1/b", "n1/b", "n1/a", ""))
        state.succeeded("echo", taken("k"))
        assert dict(state.after_failing_on) == {"n1/b": 1}


class TestDeviceTrust:
    def test_a_device_is_broken_when_a_fresh_worker_fails_too_and_what_failed_succeeds_elsewhere(self) -> None:
        trust = DeviceTrust()
        trust.tripped("a", ["embed"])
        trust.succeeded("b", ["embed"], after_failing_on=["a", "unknown"])
        assert (trust.suspected, trust.broken) == (["a"], [])
        trust.tripped("a", ["embed"])
        assert trust.broken == ["a"]

    def test_jobs_that_always_fail_break_no_device_although_others_of_their_kind_succeed(self) -> None:
        trust = DeviceTrust()
        for _ in range(5):
            trust.tripped("a", ["embed"])
            trust.succeeded("b", ["embed"])
            trust.succeeded("b", ["echo"], after_failing_on=["a"])
        assert trust.broken == []

    def test_a_success_clears_it_and_where_all_fail_none_is_broken(self) -> None:
        trust = DeviceTrust()
        for _ in range(3):
            trust.tripped("a", ["embed"])
            trust.tripped("b", ["embed"])
        trust.succeeded("c", ["echo"], after_failing_on=["a", "b"])
        assert trust.broken == []
        assert trust.suspect_after("a") == 0
        trust.succeeded("a", ["echo"])
        assert trust.suspected == ["b"]
        assert trust.suspect_after("a") == 3

    async def test_the_pool_hears_of_it(self) -> None:
        supervisor = PoolSupervisor(PoolSettings(node="n1"), 0)
        status = WorkerStatus(worker="w", device="b", pid=1, state="ready", started_at=utc_now())
        process: Any = None
        with open_journal() as journal:
            worker = WorkerProcess(process, status, journal)
            supervisor._workers["w"] = worker
            supervisor.trust.tripped("a", ["echo"])
            supervisor.trust.tripped("a", ["echo"])
            supervisor._heard(worker, status.model_copy(update={"done_by_kind": {"echo": 1}}))
            assert supervisor.trust.broken == []
            told = {"done_by_kind": {"echo": 2}, "after_failing_on": {"n1/a": 1, "n2/c": 1}}
            supervisor._heard(worker, status.model_copy(update=told))
            assert supervisor.trust.broken == ["a"]


class TestBetweenWorkerAndPool:
    def test_the_journal_says_what_runs_now_and_nothing_of_before(self) -> None:
        with open_journal() as file:
            assert read_journal(file) is None
            journal = RunJournal(file.fileno())
            journal.running([RunningJob(id=f"a-long-name-{i}") for i in range(20)])
            journal.running([RunningJob(id="j", alone=True)])
            entry = read_journal(file)
            assert entry is not None
            assert entry.jobs == [RunningJob(id="j", alone=True)]

    def test_a_pool_that_does_not_read_holds_up_no_worker_and_gets_whole_lines(self) -> None:
        reading, writing = os.pipe()
        pipe = StatusPipe(writing)
        line = "x" * 9999
        while pipe.send(line):
            pass
        seen = os.read(reading, 1 << 20)
        assert pipe.send("last") or pipe.send("last")
        os.close(writing)
        while more := os.read(reading, 1 << 20):
            seen += more
        os.close(reading)
        lines = seen.decode().splitlines()
        assert set(lines) == {line, "last"}

    async def test_a_line_that_is_too_long_does_not_end_the_reader(self) -> None:
        status = WorkerStatus(worker="w", device="d", pid=1, state="ready", started_at=utc_now())
        code = f"print('x' * {2 * MAX_LINE_BYTES}); print('''{status.model_dump_json()}''')"
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE, limit=MAX_LINE_BYTES
        )
        with open_journal() as journal:
            worker = WorkerProcess(process, status.model_copy(update={"state": "starting"}), journal)
            await asyncio.wait_for(worker._read(lambda *_: None), 20)
            assert worker.status.state == "ready"
        await process.wait()

    async def test_what_the_pool_did_not_hear_while_it_stood_still_is_no_silence(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AUTOPILOT_WORKER_TIMEOUT_S", "5")
        supervisor = PoolSupervisor(PoolSettings(), 0)
        process = await asyncio.create_subprocess_exec("sleep", "60")
        status = WorkerStatus(worker="w", device="d", pid=process.pid, state="ready", started_at=utc_now())
        with open_journal() as journal:
            worker = WorkerProcess(process, status, journal, heard_at=100.0, has_spoken=True)
            supervisor._workers["w"] = worker
            supervisor._turned_at = 100.0
            supervisor._forgive_own_stall(160.0)
            supervisor._end_silent(160.0)
            assert not worker.killed
            supervisor._end_silent(166.0)
            assert (worker.killed, supervisor.stuck) == ("silent", ["d"])
            await asyncio.wait_for(process.wait(), 10)

    async def test_a_worker_that_hangs_before_its_first_word_is_replaced_too(self) -> None:
        supervisor = PoolSupervisor(PoolSettings(), 0)
        process = await asyncio.create_subprocess_exec("sleep", "60")
        status = WorkerStatus(worker="w", device="d", pid=process.pid, state="starting", started_at=utc_now())
        with open_journal() as journal:
            worker = supervisor._workers["w"] = WorkerProcess(process, status, journal, heard_at=100.0)
            supervisor._end_silent(100.0 + LOADING_SILENT_S)
            assert not worker.killed, "starting takes its time"
            supervisor._end_silent(101.0 + LOADING_SILENT_S)
            assert (worker.killed, supervisor.stuck) == ("silent", ["d"])
            await asyncio.wait_for(process.wait(), 10)

    @pytest.mark.parametrize(
        ("here", "cordoned", "desired", "states", "waiting"),
        [
            (["a", "b"], set(), 2, {"b": "ready"}, ["a"]),
            (["a", "b"], set(), 2, {"a": "starting", "b": "ready"}, ["a"]),
            (["a", "b"], set(), 2, {"a": "ready", "b": "ready"}, []),
            (["a", "b"], set(), 1, {"b": "ready"}, []),  # another stands in for it
            (["b"], set(), 1, {"a": "draining", "b": "starting"}, []),  # it is gone
            (["a", "b"], {"a"}, 2, {"b": "ready"}, []),  # it is out of use
            (["a"], set(), 0, {}, []),
        ],
    )
    async def test_only_a_device_that_is_to_have_a_worker_again_is_waited_for(
        self, here: list[str], cordoned: set[str], desired: int, states: dict[str, Any], waiting: list[str]
    ) -> None:
        known = [device(device=name) for name in here]
        supervisor = PoolSupervisor(PoolSettings(), desired, devices=known, cordoned=cordoned)
        supervisor._hung["a"] = 100.0
        process: Any = None
        with open_journal() as journal:
            for name, state in states.items():
                status = WorkerStatus(worker=name, device=name, pid=1, state=state, started_at=utc_now())
                draining_since = 90.0 if state == "draining" else None
                supervisor._workers[name] = WorkerProcess(
                    process, status, journal, heard_at=200.0, draining_since=draining_since
                )
            assert supervisor.waiting_for == waiting
            supervisor._end_silent(200.0)
            # Whoever only finishes what it runs there keeps nobody waiting for more.
            assert supervisor.stuck == (["a"] if states.get("a") == "starting" else [])


async def test_a_pool_whose_devices_are_all_ill_says_so() -> None:
    supervisor = PoolSupervisor(PoolSettings(), 0, devices=[device(device=name) for name in ("a", "b", "c")])
    groups = {g.name: g for g in group(supervisor.devices, 1)}
    supervisor.cordoned = {"c"}

    async def after(shares: dict[str, float], seconds: float) -> bool:
        supervisor.shares = shares
        now = asyncio.get_running_loop().time()
        supervisor._resting(groups, now - seconds)
        return supervisor.all_rest

    assert not await after({"a": 0.0, "b": 0.0}, 60), "nobody is to work here"
    supervisor.desired = 2
    assert await after({"a": 0.0, "b": 0.0}, 60)
    assert not await after({"a": 0.0, "b": 0.5}, 60), "one works"
    assert not await after({"a": 0.0, "b": 0.0}, 1), "a moment's heat"


async def test_a_job_that_is_to_be_alone_has_no_company() -> None:
    isolation, together, most = SuspectIsolation(), 0, {True: 0, False: 0}

    async def run(*, alone: bool) -> None:
        nonlocal together
        async with isolation.of(alone=alone):
            together += 1
            most[alone] = max(most[alone], together)
            await asyncio.sleep(0.01)
            together -= 1

    await asyncio.wait_for(asyncio.gather(*(run(alone=i % 4 == 0) for i in range(12))), 10)
    assert most[True] == 1
    assert most[False] > 1

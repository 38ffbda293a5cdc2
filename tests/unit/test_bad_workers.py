"""Limits of runs, what counts against jobs, which devices are trusted, and what passes between worker and pool."""

from __future__ import annotations

import asyncio
import os
import sys

import pytest

from services.inference.company import Company
from services.inference.domain.device_trust import DeviceTrust
from services.inference.domain.retry import Places, counted
from services.inference.run_journal import RunJournal, RunningJob, open_journal, read_journal
from services.inference.run_watch import limit_of
from services.inference.settings import PoolSettings
from services.inference.status_pipe import StatusPipe
from services.inference.supervisor import PoolSupervisor
from services.inference.worker_process import LONGEST_LINE, WorkerProcess
from shared.clock import utc_now
from shared.messages.jobs import JobError, WorkerStatus
from tests.support.builders import T0


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


class TestDeviceTrust:
    def test_a_device_is_broken_when_a_fresh_worker_fails_too_and_the_kind_succeeds_elsewhere(self) -> None:
        trust = DeviceTrust()
        trust.tripped("a", ["embed"])
        trust.succeeded("b", ["embed"])
        assert (trust.suspected, trust.broken) == (["a"], [])
        trust.tripped("a", ["embed"])
        assert trust.broken == ["a"]

    def test_a_success_clears_it_and_where_all_fail_none_is_broken(self) -> None:
        trust = DeviceTrust()
        for _ in range(3):
            trust.tripped("a", ["embed"])
            trust.tripped("b", ["embed"])
        trust.succeeded("c", ["echo"])
        assert trust.broken == []
        assert trust.suspect_after("a") == 0
        trust.succeeded("a", ["echo"])
        assert trust.suspected == ["b"]
        assert trust.suspect_after("a") == 3


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
        while pipe.tell(line):
            pass
        seen = os.read(reading, 1 << 20)
        assert pipe.tell("last") or pipe.tell("last")
        os.close(writing)
        while more := os.read(reading, 1 << 20):
            seen += more
        os.close(reading)
        lines = seen.decode().splitlines()
        assert set(lines) == {line, "last"}

    async def test_a_line_that_is_too_long_does_not_end_the_reader(self) -> None:
        status = WorkerStatus(worker="w", device="d", pid=1, state="ready", started_at=utc_now())
        code = f"print('x' * {2 * LONGEST_LINE}); print('''{status.model_dump_json()}''')"
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE, limit=LONGEST_LINE
        )
        with open_journal() as journal:
            worker = WorkerProcess(process, status.model_copy(update={"state": "starting"}), journal)
            await asyncio.wait_for(worker._read(lambda *_: None), 20)
            assert worker.status.state == "ready"
        await process.wait()

    async def test_what_the_pool_did_not_hear_while_it_stood_still_is_no_silence(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AUTOPILOT_WORKER_SILENT_S", "5")
        supervisor = PoolSupervisor(PoolSettings(), 0)
        process = await asyncio.create_subprocess_exec("sleep", "60")
        status = WorkerStatus(worker="w", device="d", pid=process.pid, state="ready", started_at=utc_now())
        with open_journal() as journal:
            worker = WorkerProcess(process, status, journal, heard_at=100.0)
            supervisor._workers["w"] = worker
            supervisor._turned_at = 100.0
            supervisor._forgive_own_stall(160.0)
            supervisor._end_silent(160.0)
            assert not worker.killed
            supervisor._end_silent(166.0)
            assert (worker.killed, supervisor.stuck) == ("silent", ["d"])
            await asyncio.wait_for(process.wait(), 10)


async def test_a_job_that_is_to_be_alone_has_no_company() -> None:
    company, together, most = Company(), 0, {True: 0, False: 0}

    async def run(*, alone: bool) -> None:
        nonlocal together
        async with company.of(alone=alone):
            together += 1
            most[alone] = max(most[alone], together)
            await asyncio.sleep(0.01)
            together -= 1

    await asyncio.wait_for(asyncio.gather(*(run(alone=i % 4 == 0) for i in range(12))), 10)
    assert most[True] == 1
    assert most[False] > 1

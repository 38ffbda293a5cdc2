"""Long-lived tasks: what fails, ends or stands still is told and started again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from prometheus_client import CollectorRegistry

from accelerator_autopilot.runtime import supervision
from accelerator_autopilot.runtime.health import HealthState
from accelerator_autopilot.runtime.supervision import TaskSupervisor, beat, cancel_all
from tests.support.waiting import eventually


class Watched:
    def __init__(self) -> None:
        self.health, self.registry = HealthState("test"), CollectorRegistry()
        self.supervisor = TaskSupervisor(self.health, self.registry)
        self.runs = 0

    def restarts(self, reason: str) -> float:
        labels = {"task": "t", "reason": reason}
        return self.registry.get_sample_value("autopilot_task_restarts_total", labels) or 0.0

    def problem(self) -> str | None:
        return self.health.ready()[1].get("task t")


@pytest.fixture
async def watched(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Watched]:
    monkeypatch.setattr(supervision, "BACKOFF_S", (0.3,))
    monkeypatch.setattr(supervision, "CHECK_INTERVAL_S", 0.02)
    monkeypatch.setattr(supervision, "CANCEL_WAIT_S", 0.1)
    made = Watched()
    made.health.report("started", ok=True)
    yield made
    await cancel_all(made.supervisor.tasks)


async def test_a_task_that_fails_is_told_and_runs_again(watched: Watched) -> None:
    async def work() -> None:
        watched.runs += 1
        if watched.runs == 1:
            raise ZeroDivisionError
        await asyncio.Event().wait()

    watched.supervisor.start("t", work)
    await eventually(lambda: watched.problem() == "ZeroDivisionError")
    await eventually(lambda: watched.runs == 2)
    await eventually(lambda: watched.problem() is None, 5)
    assert watched.restarts("ZeroDivisionError") == 1


async def test_what_a_task_fails_with_is_told_by_type_and_place_alone(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        raise ValueError("hush-7d1f is no number")

    watched.supervisor.start("t", work)
    await eventually(lambda: watched.restarts("ValueError") == 1)
    record = next(r for r in caplog.records if r.getMessage() == "task failed; restarting it")
    assert (record.error, record.where.split()[1]) == ("ValueError", "work")  # type: ignore[attr-defined]
    assert "hush" not in caplog.text


async def test_a_task_that_returns_runs_again(watched: Watched) -> None:
    async def work() -> None:
        watched.runs += 1

    watched.supervisor.start("t", work)
    await eventually(lambda: watched.runs == 3)
    assert watched.restarts("ended") >= 2


async def test_a_task_that_stands_still_runs_again_even_when_it_does_not_end(watched: Watched) -> None:
    stuck = asyncio.Event()

    async def work() -> None:
        watched.runs += 1
        while watched.runs > 1:
            beat()
            await asyncio.sleep(0.01)
        while not stuck.is_set():
            with suppress(asyncio.CancelledError):
                await stuck.wait()

    watched.supervisor.start("t", work, hang_timeout_s=0.1)
    await eventually(lambda: watched.runs == 2)
    assert watched.restarts("hung") == 1
    stuck.set()


async def test_a_task_that_swallows_its_end_is_told_again(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "CANCEL_WAIT_S", 20.0)
    monkeypatch.setattr(supervision, "CANCEL_AGAIN_S", 0.1)
    ended = asyncio.Event()

    async def work() -> None:
        watched.runs += 1
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    watched.supervisor.start("t", work)
    await eventually(lambda: watched.runs == 1)
    watched.supervisor.end("t")
    await asyncio.wait_for(ended.wait(), 10)


async def test_a_task_that_beats_is_left_alone(watched: Watched) -> None:
    async def work() -> None:
        watched.runs += 1
        while True:
            beat()
            await asyncio.sleep(0.01)

    watched.supervisor.start("t", work, hang_timeout_s=0.15)
    await asyncio.sleep(0.5)
    assert (watched.runs, watched.problem()) == (1, None)


async def test_an_ended_task_stays_ended_and_is_no_problem(watched: Watched) -> None:
    async def work() -> None:
        watched.runs += 1
        raise ZeroDivisionError

    watched.supervisor.start("t", work)
    await eventually(lambda: watched.problem() is not None)
    watched.supervisor.end("t")
    assert watched.problem() is None

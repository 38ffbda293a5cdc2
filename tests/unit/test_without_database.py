"""The scheduler goes on without the database, whatever the database does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import asyncpg
import pytest

from accelerator_autopilot.contracts.errors import UnavailableError
from accelerator_autopilot.contracts.messages.commands import FleetPolicy
from accelerator_autopilot.runtime import database as database_module
from accelerator_autopilot.runtime.database import database
from accelerator_autopilot.scheduler.adapters.database_history import DatabaseHistory, read_past
from accelerator_autopilot.scheduler.application import policy_evaluation as crowning_module
from accelerator_autopilot.scheduler.application import weekly_report as reporting_module
from accelerator_autopilot.scheduler.application.policy_evaluation import PolicyEvaluator
from accelerator_autopilot.scheduler.application.weekly_report import WeeklyReports
from tests.support.builders import at
from tests.support.waiting import eventually

FAILURES = [
    asyncpg.exceptions.UndefinedTableError('relation "jobs" does not exist'),
    asyncpg.exceptions.AdminShutdownError("terminating connection"),
    asyncpg.InterfaceError("connection is closed"),
    TimeoutError(),
    ConnectionResetError(),
]


class Pool:
    """Fails every query; one that stands still never closes."""

    def __init__(self, error: Exception, *, frozen: bool = False) -> None:
        self.error, self.frozen, self.terminated, self.asked = error, frozen, False, 0

    async def fetch(self, *_: Any, **__: Any) -> None:
        self.asked += 1
        raise self.error

    fetchval = fetchrow = copy_from_query = fetch

    @asynccontextmanager
    async def _there(self, *_: Any, **__: Any) -> AsyncIterator[Pool]:
        yield self

    acquire = transaction = _there

    async def close(self) -> None:
        if self.frozen:
            await asyncio.sleep(3600)

    def terminate(self) -> None:
        self.terminated = True


def put_in(monkeypatch: pytest.MonkeyPatch, pool: Pool) -> None:
    async def connect(*_: Any, **__: Any) -> Pool:
        return pool

    monkeypatch.setattr(database_module, "connect_pool", connect)


@pytest.mark.parametrize("error", FAILURES, ids=lambda e: type(e).__name__)
async def test_whatever_a_query_raises_is_an_unavailable_database(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    put_in(monkeypatch, Pool(error))
    with pytest.raises(UnavailableError):
        await read_past("dsn", at(0), at(60))


async def test_a_database_that_stands_still_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool(TimeoutError(), frozen=True)
    put_in(monkeypatch, pool)
    monkeypatch.setattr(database_module, "CLOSED_WITHIN_S", 0.05)
    with pytest.raises(UnavailableError):
        async with database("dsn") as opened:
            await opened.fetch("SELECT 1")
    assert pool.terminated


@pytest.mark.parametrize("error", FAILURES, ids=lambda e: type(e).__name__)
async def test_replays_and_reports_go_on(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    pool = Pool(error)
    put_in(monkeypatch, pool)
    monkeypatch.setattr(crowning_module, "BLOCK_S", 0.01)
    monkeypatch.setattr(reporting_module, "CHECK_INTERVAL_S", 0.01)
    evaluator: Any = PolicyEvaluator.__new__(PolicyEvaluator)

    async def policy() -> FleetPolicy:
        return FleetPolicy()

    evaluator.leads, evaluator.bus = (lambda: True), SimpleNamespace(policy=policy)
    evaluator.past, evaluator.clock, evaluator.replay_every = DatabaseHistory("dsn"), lambda: at(0), timedelta(hours=6)
    monkeypatch.setattr(PolicyEvaluator, "_publish", lambda _: None)
    reporting: Any = WeeklyReports.__new__(WeeklyReports)
    reporting.leads = lambda: True

    async def make() -> bool:
        return bool(await reporting._measured(at(0), at(60)))

    reporting.dsn, reporting.make = "dsn", make
    running = [asyncio.create_task(evaluator.run()), asyncio.create_task(reporting.run())]
    await eventually(lambda: pool.asked > 6)
    assert not any(task.done() for task in running)
    for task in running:
        task.cancel()

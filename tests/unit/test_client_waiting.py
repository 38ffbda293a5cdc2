"""Waiting for jobs: watched results, and the thread that runs the loop of a client without one."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from typing import Any

import pytest

import accelerator_autopilot as ap
from accelerator_autopilot.client import result_watcher
from accelerator_autopilot.client.loop_thread import LoopThread
from accelerator_autopilot.client.result_watcher import ResultWatcher
from accelerator_autopilot.contracts.messages.jobs import JobResult
from tests.support.client import result
from tests.support.waiting import eventually


class SilentNats:
    """Takes subscriptions and tells nothing."""

    is_closed = False

    def __init__(self) -> None:
        self.subscribed: list[str] = []

    async def subscribe(self, subject: str, cb: Any) -> SilentNats:
        self.subscribed.append(subject)
        return self

    async def unsubscribe(self) -> None:
        self.subscribed.pop()


class Results:
    """Results that are there from the so-manieth look on, or an error."""

    project = "default"

    def __init__(self, after: int, end: Any = None) -> None:
        self.left, self.end = after, end or result()

    async def find_result(self, _: str) -> JobResult | None:
        self.left -= 1
        if self.left >= 0:
            return None
        if isinstance(self.end, Exception):
            raise self.end
        return self.end

    async def is_gone(self, _: str) -> bool:
        return False


class TestWatching:
    @pytest.fixture(autouse=True)
    def _soon(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(result_watcher, "RECHECK_S", (0.0, 0.0, 0.01))

    async def watch(self, results: Any, count: int = 1) -> tuple[SilentNats, ResultWatcher, list[Any]]:
        nats: Any = SilentNats()
        watcher = ResultWatcher(nats, results)
        return nats, watcher, [await watcher.watch(f"j{i}") for i in range(count)]

    async def test_a_result_whose_news_was_lost_is_found(self) -> None:
        nats, watcher, (future,) = await self.watch(Results(after=20))
        assert await watcher.watch("j0") is future
        assert (await asyncio.wait_for(future, 5)).status == "succeeded"
        await eventually(lambda: not nats.subscribed)

    async def test_many_are_looked_for_in_turn(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(result_watcher, "LOOKUPS_PER_SWEEP", 2)
        _, _, futures = await self.watch(Results(after=60), count=12)
        assert len(await asyncio.wait_for(asyncio.gather(*futures), 10)) == 12

    async def test_an_error_is_told_to_whoever_waits(self) -> None:
        _, _, (future,) = await self.watch(Results(after=2, end=ap.MalformedMessageError("output", 1, "is broken")))
        with pytest.raises(ap.MalformedMessageError):
            await asyncio.wait_for(future, 5)

    async def test_closing_ends_the_waiting(self) -> None:
        nats, watcher, (future,) = await self.watch(Results(after=10**9))
        await watcher.close()
        with pytest.raises(ap.UnavailableError, match="closed before"):
            await future
        assert not nats.subscribed


class TestLoopThread:
    def test_a_closed_client_says_so(self) -> None:
        thread = LoopThread("test")
        thread.stop()
        thread.stop()
        with pytest.raises(ap.UnavailableError, match="closed"):
            thread.run(asyncio.sleep(0))

    def test_who_waits_while_it_is_closed_is_told(self) -> None:
        thread = LoopThread("test")
        waiting = concurrent.futures.ThreadPoolExecutor(1).submit(thread.run, asyncio.sleep(60))
        thread.run(asyncio.sleep(0.05))
        thread.stop()
        with pytest.raises(ap.UnavailableError, match="closed"):
            waiting.result(5)

    def test_a_forked_process_is_told_to_connect_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        thread = LoopThread("test")
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: 1)
            with pytest.raises(ap.UnavailableError, match="forked"):
                thread.run(asyncio.sleep(0))
        thread.stop()

    def test_iterating_ends_what_it_reads(self, thread: LoopThread) -> None:
        closed = threading.Event()

        async def numbers() -> Any:
            try:
                for number in range(10):
                    yield number
            finally:
                closed.set()

        source = thread.iterate(numbers())
        assert [next(source), next(source)] == [0, 1]
        source.close()
        assert closed.wait(5)

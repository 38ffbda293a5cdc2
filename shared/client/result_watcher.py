"""Wait for the results of many jobs over one connection."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from itertools import islice

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from accelerator_autopilot.client.job_following import RECHECK_S, nowhere, patient
from accelerator_autopilot.client.jobs import Jobs
from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.errors import UnavailableError
from accelerator_autopilot.contracts.messages.jobs import JobResult

LOOKUPS_PER_SWEEP = 100  # the rate of lookups stays the same, however many jobs are waited for


class ResultWatcher:
    """Gives each job a future. The server announces results; a sweep finds those whose announcement was lost.

    A result that expired unread ends its future with NotFoundError.
    """

    def __init__(self, nc: Client, jobs: Jobs) -> None:
        self._nc, self._find, self._is_gone = nc, patient(nc, jobs.find_result), jobs.is_gone
        self._project = jobs.project
        self._waiting: dict[str, asyncio.Future[JobResult]] = {}
        self._subscriptions: dict[str, Subscription] = {}
        self._looks: set[asyncio.Task[None]] = set()
        self._sweeper: asyncio.Task[None] | None = None

    async def watch(self, job_id: str) -> asyncio.Future[JobResult]:
        """Return the future of a job's result. Raises the errors of nats-py when it cannot be waited for."""
        if job_id in self._waiting:
            return self._waiting[job_id]
        future = self._waiting[job_id] = asyncio.get_running_loop().create_future()

        async def announced(_: Msg) -> None:
            self._start_look(job_id)

        try:
            self._subscriptions[job_id] = await self._nc.subscribe(subjects.result(job_id, self._project), cb=announced)
        except BaseException:
            self._waiting.pop(job_id, None)
            raise
        self._start_look(job_id)
        if self._sweeper is None or self._sweeper.done():
            self._sweeper = asyncio.create_task(self._sweep())
        return future

    async def close(self) -> None:
        """Stop; pending waits raise UnavailableError."""
        for task in (*self._looks, *([self._sweeper] if self._sweeper else [])):
            task.cancel()
        for job_id in list(self._waiting):
            await self._end(
                job_id, UnavailableError(f"the client was closed before job {job_id} finished; the job continues")
            )

    def _start_look(self, job_id: str) -> None:
        task = asyncio.create_task(self._look(job_id))
        self._looks.add(task)
        task.add_done_callback(self._looks.discard)

    async def _look(self, job_id: str) -> None:
        """Look up at once and again soon: announcements come before the result is stored."""
        for pause_s in (0.0, *RECHECK_S[:-1]):
            await asyncio.sleep(pause_s)
            if await self._found(job_id):
                return

    async def _sweep(self) -> None:
        while self._waiting:
            await asyncio.sleep(RECHECK_S[-1])
            for job_id in list(islice(self._waiting, LOOKUPS_PER_SWEEP)):
                if await self._found(job_id):
                    continue
                if await self._is_gone(job_id):
                    await self._end(job_id, nowhere(job_id))
                elif job_id in self._waiting:
                    # Move it to the end of the queue.
                    self._waiting[job_id] = self._waiting.pop(job_id)

    async def _found(self, job_id: str) -> bool:
        if job_id not in self._waiting:
            return True
        try:
            result = await self._find(job_id)
        except Exception as error:  # noqa: BLE001  it is told to whoever waits
            await self._end(job_id, error)
            return True
        if result is None:
            return False
        await self._end(job_id, result)
        return True

    async def _end(self, job_id: str, end: JobResult | Exception) -> None:
        future, subscription = self._waiting.pop(job_id, None), self._subscriptions.pop(job_id, None)
        if future is not None and not future.done():
            if isinstance(end, JobResult):
                future.set_result(end)
            else:
                future.set_exception(end)
                future.exception()  # nothing to look up
        if subscription is not None:
            with suppress(nats.errors.Error):
                await subscription.unsubscribe()

"""One kind whose jobs join a running batch: each starts as soon as a slot is free, and ends on its own."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from nats.aio.msg import Msg
from pydantic import BaseModel

from accelerator_autopilot.inference.errors import KindFailedError
from accelerator_autopilot.inference.jobs.completion import RunStats
from accelerator_autopilot.inference.kinds.base import ContinuousKind, RunContext
from accelerator_autopilot.inference.worker.application.batch_execution import as_json, judged
from accelerator_autopilot.inference.worker.application.batch_runner import JobRunner
from accelerator_autopilot.inference.worker.application.progress import make_context
from accelerator_autopilot.inference.worker.application.scratch_folders import ScratchFolders
from accelerator_autopilot.transport.clock import utc_now


@dataclass
class ContinuousRunner(JobRunner):
    """Keeps up to `slots` jobs running at once."""

    kind: ContinuousKind = field(kw_only=True)
    slots: int = field(kw_only=True)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def together(self) -> int:
        """How many jobs may run at once."""
        return self.slots

    async def run(self) -> None:
        """Work until drained, then until what runs has ended."""
        while not (self.draining or self.state.stop.is_set()):
            free = int(self.slots * self.state.share) - len(self._tasks)
            if self.state.share == 0:
                await self.give_back_unstarted()
            if free < 1 and self._tasks:
                await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED, timeout=1.0)
                continue
            for message in await self.take(free, prefetch=False):
                task = asyncio.create_task(self._serve(message))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, message: Msg) -> None:
        try:
            async with self.guard(message):
                await self._one(message)
        finally:
            self.release([message])

    async def _one(self, message: Msg) -> None:
        prepared = await self.intake.prepare(message)
        if prepared is None:
            return
        taken, item = prepared
        loop = asyncio.get_running_loop()
        started_at, began = utc_now(), loop.time()
        self.state.running[taken.job.reference] = taken
        try:
            async with self.state.isolation.of(alone=taken.alone):
                with ScratchFolders(self.settings.scratch_dir) as scratch, self.state.runs.running([taken]):
                    context = make_context([taken], self.nc, self.settings, self.state, scratch)
                    output = await self._output(item, context)
                encoded = await asyncio.to_thread(as_json, self.name, output)
        finally:
            self.state.running.pop(taken.job.reference, None)
            self.state.last_job_at = loop.time()
            # Jobs share the device: each is charged for its part of the batch.
            self.state.busy_s += (loop.time() - began) / (len(self._tasks) or 1)
        if self.state.is_cancelled(taken):
            await self.outcomes.cancel(taken)
            return
        if isinstance(encoded, BaseException):
            self.state.jobs_failed += 1
            self.state.failed(self.name, taken, encoded)
            await self.outcomes.fail(taken, encoded, await self.intake.places())
            return
        self.state.succeeded(self.name, taken)
        counted = context.tokens.get(0)
        ran = RunStats(
            started_at,
            loop.time() - began,
            len(self._tasks) or 1,
            prompt_tokens=counted.prompt if counted else None,
            completion_tokens=counted.completion if counted else None,
        )
        await self.outcomes.succeed(taken, encoded, ran)
        self.state.jobs_done += 1

    async def _output(self, item: Any, context: RunContext) -> BaseModel | BaseException:
        """Return the kind's output for an input, or how it failed; this task continues whatever happens."""
        future = await asyncio.to_thread(self._begun, item, context)
        done = asyncio.ensure_future(asyncio.wrap_future(future))
        await asyncio.wait([done])
        if done.cancelled():
            return KindFailedError(self.name, "Cancelled", "the run cancelled itself")
        error = done.exception()
        return done.result() if error is None else judged(self.name, error)

    def _begun(self, item: Any, context: RunContext) -> Future[BaseModel]:
        try:
            return self.kind.start(item, context)
        except BaseException as error:  # noqa: BLE001  whatever the kind raises is told of this job
            failed: Future[BaseModel] = Future()
            failed.set_exception(judged(self.name, error))
            return failed

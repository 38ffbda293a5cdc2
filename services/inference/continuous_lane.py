"""One kind whose jobs join a running batch: each begins as soon as there is a slot, and ends on its own."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from nats.aio.msg import Msg

from services.inference.device_run import as_json, judged
from services.inference.kinds.base import ContinuousKind
from services.inference.lane import Lane
from services.inference.outcomes import Ran
from services.inference.scratch import Scratch
from services.inference.telling import make_context
from shared.clock import utc_now


@dataclass
class ContinuousLane(Lane):
    """Keeps up to `slots` jobs running at once."""

    kind: ContinuousKind = field(kw_only=True)
    slots: int = field(kw_only=True)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def together(self) -> int:
        """Jobs that may run at once."""
        return self.slots

    async def run(self) -> None:
        """Work until drained, then until what runs has ended."""
        while not (self.draining or self.state.stop.is_set()):
            free = int(self.slots * self.state.share) - len(self._tasks)
            if self.state.share == 0:
                await self.hand_back()
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
        self.state.running[taken.job.id] = taken
        try:
            async with self.state.company.of(alone=taken.alone):
                with Scratch(self.settings.scratch_dir) as scratch, self.state.runs.running([taken]):
                    context = make_context([taken], self.nc, self.settings, self.state, scratch)
                    future = await loop.run_in_executor(None, self.kind.start, item, context)
                    output = await asyncio.wrap_future(future)
                told = await asyncio.to_thread(as_json, self.name, output)
        except Exception as error:  # noqa: BLE001  whatever the kind raised is the job's own error
            told = judged(self.name, error)
        finally:
            self.state.running.pop(taken.job.id, None)
            self.state.last_job_at = loop.time()
            # Jobs share the device: each is as busy as its part of what runs.
            self.state.busy_s += (loop.time() - began) / (len(self._tasks) or 1)
        if self.state.is_cancelled(taken):
            await self.outcomes.cancel(taken)
            return
        if isinstance(told, BaseException):
            self.state.jobs_failed += 1
            self.state.failed(self.name, taken.job.id, told)
            await self.outcomes.fail(taken, told, await self.intake.places())
            return
        self.state.succeeded(self.name)
        counted = context.tokens.get(0)
        ran = Ran(
            started_at,
            loop.time() - began,
            len(self._tasks) or 1,
            prompt_tokens=counted.prompt if counted else None,
            completion_tokens=counted.completion if counted else None,
        )
        await self.outcomes.succeed(taken, told, ran)
        self.state.jobs_done += 1

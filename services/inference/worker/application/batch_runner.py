"""One kind on one worker: take jobs that fit, run them in the device's thread, and record the outcomes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.errors import APIError

from accelerator_autopilot.inference.jobs.completion import ClaimedJob, JobCompletion, RunStats
from accelerator_autopilot.inference.kinds.base import Kind, RunContext
from accelerator_autopilot.inference.settings import WorkerSettings
from accelerator_autopilot.inference.worker.application.batch_execution import Told, run_to_json
from accelerator_autopilot.inference.worker.application.job_admission import JobAdmission
from accelerator_autopilot.inference.worker.application.progress import make_context
from accelerator_autopilot.inference.worker.application.scratch_folders import ScratchFolders
from accelerator_autopilot.inference.worker.application.worker_state import WorkerState
from accelerator_autopilot.inference.worker.domain.batch_sizing import BatchSizer
from accelerator_autopilot.inference.worker.domain.priorities import StridePicker, fair_order
from accelerator_autopilot.runtime.failure_description import failure_fields
from accelerator_autopilot.runtime.poison_messages import PoisonRule
from accelerator_autopilot.runtime.pull_subscription import PullSubscription
from accelerator_autopilot.transport.clock import utc_now

log = logging.getLogger(__name__)

NATS_ERRORS = (nats.errors.Error, APIError, OSError)
IDLE_S = 1.0
# A message that waits in the stream arrives within a millisecond of the request.
ARRIVES_S = 0.004


@dataclass
class JobRunner:
    """Taking jobs, shared by all runners. `pullers` are in order of priority."""

    name: str
    pullers: list[PullSubscription]
    arrived: asyncio.Event
    settings: WorkerSettings
    nc: Client
    intake: JobAdmission
    outcomes: JobCompletion
    state: WorkerState
    repair: Callable[[], Awaitable[None]]
    poison: PoisonRule
    draining: bool = False
    picker: StridePicker = field(default_factory=StridePicker)

    async def stop(self) -> None:
        """Take nothing more, and give back jobs that have not started."""
        self.draining = True
        self.arrived.set()
        for puller in self.pullers:
            for message in await puller.stop():
                await message.nak()

    def guard(self, message: Msg) -> AbstractAsyncContextManager[None]:
        """Process one job under the poison-message rule: what always fails ends in DEAD and blocks no other."""
        give_up = partial(self.outcomes.give_up, message)
        return self.poison.guard(message, f"pool {self.name}", give_up)

    async def take(self, wanted: int, *, prefetch: bool, delay_s: float = 0.0) -> list[Msg]:
        """Return up to `wanted` messages by priority; empty on timeout.

        Waits at most `delay_s` for a fuller batch.
        """
        if wanted < 1:
            await self.give_back_unstarted()
            await asyncio.sleep(IDLE_S)
            return []
        asked = [puller for puller in self.pullers if await puller.ask(wanted)]
        await self._let_arrive(asked)
        if not any(puller.ready for puller in self.pullers):
            await self._idle()
            return []
        if delay_s:
            await self._gather(wanted, delay_s)
        batch: list[Msg] = []
        while len(batch) < wanted:
            turn = self.picker.next([len(puller.ready) for puller in self.pullers])
            if turn is None:
                break
            message = self.pullers[turn].ready.popleft()
            self.state.held[message.reply] = message
            batch.append(message)
        if prefetch:
            for puller in self.pullers:
                await puller.ask(wanted)
        return batch

    async def give_back_unstarted(self) -> None:
        """Return messages that are not to start here to other workers; kept alive, they would wait for this one."""
        with suppress(*NATS_ERRORS):
            for puller in self.pullers:
                while puller.ready:
                    await puller.ready.popleft().nak()

    def release(self, messages: list[Msg]) -> None:
        """Stop the heartbeats of these jobs."""
        for message in messages:
            self.state.held.pop(message.reply, None)

    async def _let_arrive(self, asked: list[PullSubscription]) -> None:
        """Give messages that were just requested time to arrive, so that a lower priority does not go first."""
        await self._wait_while(
            lambda: any(p.ready for p in self.pullers) and not all(p.ready for p in asked), ARRIVES_S
        )

    async def _gather(self, wanted: int, delay_s: float) -> None:
        await self._wait_while(lambda: sum(len(p.ready) for p in self.pullers) < wanted and not self.draining, delay_s)

    async def _wait_while(self, lacking: Callable[[], bool], longest_s: float) -> None:
        until = asyncio.get_running_loop().time() + longest_s
        while lacking():
            self.arrived.clear()
            try:
                async with asyncio.timeout_at(until):
                    await self.arrived.wait()
            except TimeoutError:
                return

    async def _idle(self) -> None:
        self.arrived.clear()
        try:
            async with asyncio.timeout(IDLE_S):
                await self.arrived.wait()
        except TimeoutError:
            return
        if any(puller.missing for puller in self.pullers):
            await self.repair()
            await asyncio.sleep(0.5)


@dataclass
class BatchRunner(JobRunner):
    """Runs batches one after another, in turn with the worker's other runners, beside long-running ones."""

    kind: Kind = field(kw_only=True)
    executor: ThreadPoolExecutor = field(kw_only=True)
    sizer: BatchSizer = field(init=False)
    _concluded: asyncio.Future[None] = field(init=False)

    def __post_init__(self) -> None:
        self._concluded = asyncio.get_running_loop().create_future()
        self._concluded.set_result(None)
        self.sizer = BatchSizer(largest=self.kind.max_batch, budget_s=self.settings.batch_budget_s)

    @property
    def together(self) -> int:
        """How many jobs may run at once."""
        return self.kind.max_batch

    async def run(self) -> None:
        """Work until drained."""
        while not (self.draining or self.state.stop.is_set()):
            self.sizer.share = self.state.share
            messages = await self.take(
                self.sizer.allowed, prefetch=self.sizer.prefetches, delay_s=self.state.batch_delay_s
            )
            if not messages:
                continue
            try:
                concluding = await self._work(messages)
            except NATS_ERRORS as error:
                concluding = None
                log.warning("batch not started", extra={"kind": self.name, "error": type(error).__name__})
            except Exception as error:  # noqa: BLE001  the lane goes on, whatever became of a batch
                concluding = None
                log.error("batch failed", extra={"kind": self.name} | failure_fields(error))  # noqa: TRY400
            # The outcome of one batch is recorded while the next one runs, never more.
            await self._concluded
            self._concluded = asyncio.ensure_future(self._finish(concluding, messages))
        await self._concluded

    async def _finish(self, concluding: Awaitable[object] | None, messages: list[Msg]) -> None:
        try:
            if concluding is not None:
                await concluding
        except NATS_ERRORS as error:
            # Unconfirmed jobs are redelivered after their acknowledgement timeout.
            log.warning("batch not confirmed", extra={"kind": self.name, "error": type(error).__name__})
        except Exception as error:  # noqa: BLE001  the lane goes on, whatever became of a batch
            log.error("batch outcome not recorded", extra={"kind": self.name} | failure_fields(error))  # noqa: TRY400
        finally:
            self.release(messages)

    async def _work(self, messages: list[Msg]) -> Awaitable[object] | None:
        """Run a batch; returns what remains to be done for it."""
        prepared = [p for m in messages if (p := await self._prepare(m)) is not None]
        if len(prepared) > 1:
            prepared = fair_order(prepared, lambda p: p[0].job.submitter, lambda p: p[0].job.deadline_at)
        together = [p for p in prepared if not p[0].alone]
        endings: list[Awaitable[None]] = []
        for batch in [[p] for p in prepared if p[0].alone] + ([together] if together else []):
            if self.state.stop.is_set():
                endings += [self.outcomes.give_back(p[0], alone=False) for p in batch]
                continue
            endings += await self._run(batch)
        return asyncio.ensure_future(_all(endings)) if endings else None

    async def _prepare(self, message: Msg) -> tuple[ClaimedJob, Any] | None:
        """Prepare jobs concurrently; one that fails does not stop the others."""
        async with self.guard(message):
            return await self.intake.prepare(message)
        return None

    async def _run(self, prepared: list[tuple[ClaimedJob, Any]]) -> list[Awaitable[None]]:
        """Run one batch; returns what remains to be done for each of its jobs."""
        taken, inputs = [p[0] for p in prepared], [p[1] for p in prepared]
        started_at = utc_now()
        with ScratchFolders(self.settings.scratch_dir) as scratch:
            context = make_context(taken, self.nc, self.settings, self.state, scratch)
            alone = taken[0].alone or getattr(self.kind, "undisturbed", False)
            async with self.state.turns.turn(), self.state.isolation.of(alone=alone):
                outputs, took_s = await self._run_on_device(taken, inputs, context)
        for one, output in zip(taken, outputs, strict=True):
            # At once, so that a worker that suspects its device takes nothing more.
            if isinstance(output, BaseException):
                self.state.failed(self.name, one, output)
            else:
                self.state.succeeded(self.name, one)
        endings: list[Awaitable[None]] = []
        for index, (one, output) in enumerate(zip(taken, outputs, strict=True)):
            counted = context.tokens.get(index)
            ran = RunStats(
                started_at,
                took_s,
                len(taken),
                prompt_tokens=counted.prompt if counted else None,
                completion_tokens=counted.completion if counted else None,
            )
            endings.append(asyncio.ensure_future(self._conclude(one, output, ran)))
        return endings

    async def _run_on_device(
        self, taken: list[ClaimedJob], inputs: list[Any], context: RunContext
    ) -> tuple[list[Told], float]:
        loop = asyncio.get_running_loop()
        self.state.running |= {t.job.reference: t for t in taken}
        began = loop.time()
        self.state.batch_begins(began)
        try:
            with self.state.runs.running(taken):
                outputs = await loop.run_in_executor(self.executor, run_to_json, self.kind, inputs, context, self.sizer)
        finally:
            took_s = loop.time() - began
            self.state.batch_ends(loop.time())
            self.state.last_job_at = loop.time()
            for one in taken:
                self.state.running.pop(one.job.reference, None)
            self.sizer.record(len(taken), took_s)
        return outputs, took_s

    async def _conclude(self, taken: ClaimedJob, output: Told, ran: RunStats) -> None:
        async with self.guard(taken.message):
            if self.state.is_cancelled(taken):
                await self.outcomes.cancel(taken)
            elif isinstance(output, BaseException):
                self.state.jobs_failed += 1
                await self.outcomes.fail(taken, output, await self.intake.places())
            else:
                await self.outcomes.succeed(taken, output, ran)
                self.state.jobs_done += 1


async def _all(endings: Sequence[Awaitable[None]]) -> None:
    """Wait for all, so that no job loses its heartbeat while it is held; then raise the first error."""
    for error in await asyncio.gather(*endings, return_exceptions=True):
        if isinstance(error, BaseException):
            raise error

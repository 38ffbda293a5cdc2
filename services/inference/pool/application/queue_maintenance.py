"""Maintain the queue, in one pool at a time.

Releases jobs whose dependencies or start time are met, ends jobs that no worker will take, and deletes expired
payloads.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from functools import partial

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from pydantic import ValidationError

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.errors import UnavailableError
from accelerator_autopilot.contracts.job_building import address, queue_address
from accelerator_autopilot.contracts.messages.jobs import DeadReason, Job, JobResult
from accelerator_autopilot.contracts.projects import job_reference
from accelerator_autopilot.contracts.streams import due_durable, waiting_durable
from accelerator_autopilot.inference.jobs.dead_lettering import DeadLettering
from accelerator_autopilot.inference.jobs.retry_policy import expired_text, expires_at
from accelerator_autopilot.inference.jobs.stored_results import read_result
from accelerator_autopilot.inference.pool.application.job_forwarding import forward_job
from accelerator_autopilot.inference.pool.application.unschedulable_jobs import UnschedulableJobs
from accelerator_autopilot.inference.pool.domain.job_dependencies import DependencyIndex
from accelerator_autopilot.runtime.bus import BUS_ERRORS
from accelerator_autopilot.runtime.consumers import pull_batches, some_at_once
from accelerator_autopilot.runtime.leader_election import LeaderElection
from accelerator_autopilot.runtime.poison_messages import PoisonRule
from accelerator_autopilot.runtime.supervision import run_together
from accelerator_autopilot.transport.clock import utc_now
from accelerator_autopilot.transport.payload_store import sweep_payloads

log = logging.getLogger(__name__)

SWEEP_PERIOD_S = 2.0
MAX_PAUSE_S = 30.0
PAYLOADS_PERIOD_S = 30.0
WAITING, DUE = waiting_durable().durable_name or "", due_durable().durable_name or ""
NEXT = "Nats-Schedule-Next"
# Errors that may pass: the broker is unreachable, or a stream is full.
PASSING = (UnavailableError, *BUS_ERRORS)


class QueueMaintenance:
    """What no single worker can do."""

    def __init__(
        self,
        nc: Client,
        js: JetStreamContext,
        leadership: LeaderElection,
        poison: PoisonRule,
        unrunnable_after_s: float,
        own_pool: str = "",
    ) -> None:
        self._nc, self._js, self._leadership, self._poison = nc, js, leadership, poison
        self._dead = DeadLettering(js, "janitor")
        self._undeliverable = UnschedulableJobs(js, self._dead, poison, unrunnable_after_s, own_pool)
        self._waiting: DependencyIndex[Msg] = DependencyIndex()
        self._released: asyncio.Queue[Msg] = asyncio.Queue()

    async def run(self) -> None:
        """Maintain the queue until cancelled, while this process is the leader."""
        await run_together(
            self._leadership.run(), self._keep_waiting(), self._process_results(), self._release_due(),
            self._end_unschedulable(), self._sweep_payloads(),
        )  # fmt: skip

    async def _led(self) -> None:
        while self._leadership.token is None:  # noqa: ASYNC110  a lease is a matter of time, not of an event
            await asyncio.sleep(0.5)

    async def _keep_waiting(self) -> None:
        """Handle jobs that wait for others; unacknowledged messages are redelivered and checked again."""
        await self._led()
        on_result = self._poison.callback("janitor results", self._on_result)
        subscriptions = [
            await self._nc.subscribe(wildcard, cb=on_result)
            for wildcard in subjects.in_any_project(subjects.ANY_RESULT)
        ]
        try:
            async with aclosing(pull_batches(self._js, "JOBS", WAITING, batch=500)) as batches:
                async for batch in batches:
                    await self._led()
                    await some_at_once(self._check_again, batch)
        finally:
            for subscription in subscriptions:
                await subscription.unsubscribe()

    async def _on_result(self, message: Msg) -> None:
        for waiting in self._waiting.pop_dependents(subjects.finished_job(message.subject)):
            self._released.put_nowait(waiting)

    async def _process_results(self) -> None:
        """Handle jobs whose last dependency ended, outside of the callback, which would delay further results."""
        while True:
            released = [await self._released.get()]
            while not self._released.empty():
                released.append(self._released.get_nowait())
            await some_at_once(self._check_again, released)

    async def _check_again(self, message: Msg) -> None:
        async with self._poison.guard(message, WAITING, partial(self._dead.give_up, message)):
            await self._look_at(message)

    async def _look_at(self, message: Msg) -> None:
        try:
            job = Job.model_validate_json(message.data)
        except ValidationError as error:
            await self._bury_unreadable(message, error)
            return
        if await self._result_of(job.id, job.project) is not None:
            self._waiting.forget(job.reference)
            await message.ack()
            return
        for other in job.after:
            result = await self._result_of(other, job.project)
            if result is None:
                if utc_now() > expires_at(job):
                    await self._give_up(job, "expired", f"{expired_text(job)}: job {other} had not ended", message)
                else:
                    self._waiting.put(job.reference, job_reference(other, job.project), message)
                return
            if result.status != "succeeded":
                await self._give_up(job, "dependency_failed", f"job {other} {result.status}", message)
                return
        self._waiting.forget(job.reference)
        target = address(job.model_copy(update={"after": []}), utc_now())
        await forward_job(self._js, message, job, target, job.model_dump_json(exclude_none=True).encode())

    async def _release_due(self) -> None:
        """Release jobs whose start time has come, and jobs that are redelivered repeatedly."""
        await self._led()
        async with aclosing(pull_batches(self._js, "LATER", DUE, batch=500)) as batches:
            async for batch in batches:
                await self._led()
                await some_at_once(self._try_to_let_go, batch)

    async def _try_to_let_go(self, message: Msg) -> None:
        async with self._poison.guard(message, DUE, partial(self._dead.give_up, message)):
            await self._let_go(message)

    async def _let_go(self, message: Msg) -> None:
        try:
            job = Job.model_validate_json(message.data)
        except ValidationError as error:
            await self._bury_unreadable(message, error)
            return
        if (message.headers or {}).get(NEXT, "purge") != "purge":
            run = f"{job.id}-{message.metadata.sequence.stream}"
            job = job.model_copy(update={"id": run, "submitted_at": utc_now()})
        if await self._result_of(job.id, job.project) is not None:
            await message.ack()
            return
        target = queue_address(job)
        await forward_job(self._js, message, job, target, job.model_dump_json(exclude_none=True).encode())

    async def _end_unschedulable(self) -> None:
        while True:
            await self._led()
            began = asyncio.get_running_loop().time()
            try:
                await self._undeliverable.sweep(utc_now())
            except PASSING as error:
                log.info("queue not swept", extra={"error": type(error).__name__})
            took_s = asyncio.get_running_loop().time() - began
            # Listing a long queue takes time: use at most a twentieth of ours, unless a busy machine makes
            # that minutes.
            await asyncio.sleep(min(MAX_PAUSE_S, max(SWEEP_PERIOD_S, 20 * took_s)))

    async def _give_up(self, job: Job, reason: DeadReason, text: str, message: Msg) -> None:
        await self._dead.dead_letter(job, reason, [self._dead.reason(reason, text)], message.subject)
        self._waiting.forget(job.reference)
        await message.ack()

    async def _bury_unreadable(self, message: Msg, error: ValidationError) -> None:
        metadata = message.metadata
        await self._dead.dead_letter_unreadable(
            message.subject, message.data, metadata.sequence.stream, metadata.timestamp, error
        )
        await message.ack()

    async def _result_of(self, job_id: str, project: str) -> JobResult | None:
        return await read_result(self._js, job_id, project)

    async def _sweep_payloads(self) -> None:
        while True:
            await self._led()
            try:
                if count := await sweep_payloads(self._js, utc_now()):
                    log.info("payloads deleted", extra={"count": count})
            except PASSING as error:
                log.info("payloads not swept", extra={"error": type(error).__name__})
            await asyncio.sleep(PAYLOADS_PERIOD_S)

"""One kind on one worker: take what fits, run it in the device's thread, and write how it ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.errors import APIError
from pydantic import BaseModel, ValidationError

from services.inference.domain.batching import BatchSizer
from services.inference.domain.retry import Bury, after_error, before_attempt
from services.inference.kinds.base import Input, Kind, RunContext
from services.inference.outcomes import JobOutcomes, Taken
from services.inference.settings import WorkerSettings
from shared import subjects
from shared.clock import utc_now
from shared.errors import AutopilotError
from shared.messages.jobs import Job, JobBody, JobError, JobProgress, JobResult
from shared.puller import Puller

log = logging.getLogger(__name__)

Outcome = BaseModel | Exception
NATS_ERRORS = (nats.errors.Error, APIError, OSError)


@dataclass
class WorkerState:
    """What all lanes of a worker share."""

    device_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    held: dict[str, Msg] = field(default_factory=dict)
    running: dict[str, Taken] = field(default_factory=dict)
    cancelled: set[str] = field(default_factory=set)
    jobs_done: int = 0
    jobs_failed: int = 0
    busy_s: float = 0.0
    batch_started: float | None = None


@dataclass
class Lane:
    """The lane of one kind. `pullers` are in order of priority."""

    kind: Kind
    pullers: list[Puller]
    arrived: asyncio.Event
    settings: WorkerSettings
    nc: Client
    outcomes: JobOutcomes
    state: WorkerState
    executor: ThreadPoolExecutor
    repair: Callable[[], Awaitable[None]]
    draining: bool = False
    sizer: BatchSizer = field(init=False)

    def __post_init__(self) -> None:
        self.sizer = BatchSizer(largest=self.kind.max_batch)

    async def run(self) -> None:
        """Work until drained."""
        while not self.draining:
            messages = await self._take()
            if not messages:
                continue
            try:
                await self._work(messages)
            except NATS_ERRORS as error:
                # Unconfirmed jobs come again once their acknowledgement is overdue.
                log.warning("batch not confirmed", extra={"kind": self.kind.name, "error": type(error).__name__})
            except Exception:
                log.exception("batch failed", extra={"kind": self.kind.name})
            finally:
                for message in messages:
                    self.state.held.pop(message.reply, None)

    async def stop(self) -> None:
        """Take nothing more, and give back what was not begun."""
        self.draining = True
        self.arrived.set()
        for puller in self.pullers:
            for message in await puller.stop():
                await message.nak()

    async def _take(self) -> list[Msg]:
        for puller in self.pullers:
            await puller.ask(self.sizer.size)
        ready = [puller for puller in self.pullers if puller.ready]
        if not ready:
            self.arrived.clear()
            try:
                async with asyncio.timeout(1.0):
                    await self.arrived.wait()
            except TimeoutError:
                return []
            if any(puller.missing for puller in self.pullers):
                await self.repair()
                await asyncio.sleep(0.5)
            return []
        batch: list[Msg] = []
        for puller in ready:
            while puller.ready and len(batch) < self.sizer.size:
                message = puller.ready.popleft()
                self.state.held[message.reply] = message
                batch.append(message)
        if self.sizer.prefetches:
            for puller in self.pullers:
                await puller.ask(self.sizer.size)
        return batch

    async def _work(self, messages: list[Msg]) -> None:
        taken: list[Taken] = []
        inputs: list[Input] = []
        for message in messages:
            prepared = await self._prepare(message)
            if prepared is not None:
                taken.append(prepared[0])
                inputs.append(prepared[1])
        if not taken:
            return
        started_at = utc_now()
        async with self.state.device_lock:
            outputs = await self._run_on_device(taken, inputs)
        await asyncio.gather(*(self._conclude(t, output, started_at) for t, output in zip(taken, outputs, strict=True)))

    async def _prepare(self, message: Msg) -> tuple[Taken, Input] | None:
        try:
            job = read_job(message)
        except (ValidationError, UnicodeError, ValueError):
            await self.outcomes.bury_unreadable(message)
            return None
        taken = Taken(message, job, message.metadata.num_delivered)
        if taken.delivered > 1 or job.id in self.state.cancelled:
            kept = await self.outcomes.recall(job.id)
            taken.errors, taken.cancelled = list(kept.errors), kept.cancelled
        if taken.cancelled:
            await message.ack()
            return None
        verdict = before_attempt(job, taken.delivered, taken.errors, utc_now())
        if verdict is not None:
            await self._bury(taken, verdict)
            return None
        try:
            payload = await self.outcomes.payload(job)
            return taken, self.kind.input.model_validate(payload)
        except (ValidationError, AutopilotError) as error:
            self._note(taken, error)
            await self._bury(taken, Bury("invalid"))
            return None

    async def _run_on_device(self, taken: list[Taken], inputs: list[Input]) -> list[Outcome]:
        loop = asyncio.get_running_loop()
        context = self._context(taken, loop)
        self.state.running = {t.job.id: t for t in taken}
        self.state.batch_started = began = loop.time()
        try:
            return await loop.run_in_executor(self.executor, _run_safely, self.kind, inputs, context)
        finally:
            took = loop.time() - began
            self.state.busy_s += took
            self.state.batch_started = None
            self.state.running = {}
            self.sizer.record(len(taken), took)

    def _context(self, taken: list[Taken], loop: asyncio.AbstractEventLoop) -> RunContext:
        def progress(index: int, fraction: float) -> None:
            job = taken[index].job
            report = JobProgress(
                job_id=job.id, state="running", fraction=fraction, attempt=taken[index].attempt, at=utc_now()
            )
            body = report.model_dump_json().encode()
            asyncio.run_coroutine_threadsafe(self.nc.publish(subjects.progress(job.id), body), loop)

        s = self.settings
        return RunContext(
            torch_device=s.torch_device,
            torch_threads=s.torch_threads,
            embed_model=s.embed_model,
            summarize_model=s.summarize_model,
            attempts=[t.attempt for t in taken],
            progress=progress,
            cancelled=lambda index: taken[index].job.id in self.state.cancelled,
        )

    async def _conclude(self, taken: Taken, output: Outcome, started_at: datetime) -> None:
        if isinstance(output, Exception):
            await self._fail(taken, output)
            return
        result = self._result(taken, "succeeded", started_at=started_at, output=output.model_dump(mode="json"))
        await self.outcomes.finish(taken, result)
        self.state.jobs_done += 1

    async def _fail(self, taken: Taken, error: Exception) -> None:
        self.state.jobs_failed += 1
        self._note(taken, error)
        verdict = after_error(taken.job, error, len(taken.errors))
        log.warning(
            "attempt failed",
            extra={
                "job_id": taken.job.id,
                "kind": taken.job.kind,
                "error": type(error).__name__,
                "attempt": len(taken.errors),
            },
        )
        if isinstance(verdict, Bury):
            await self._bury(taken, verdict)
            return
        await self.outcomes.remember(taken.job.id, taken.errors)
        await taken.message.nak(delay=verdict.delay_s)

    async def _bury(self, taken: Taken, verdict: Bury) -> None:
        await self.outcomes.bury(taken, verdict.reason, self._result(taken, "failed"))

    def _note(self, taken: Taken, error: Exception) -> None:
        text = _explain(error)[:4000]
        taken.errors = [
            *taken.errors,
            JobError(
                attempt=taken.attempt,
                type=type(error).__name__,
                message=text,
                worker=self.settings.worker,
                at=utc_now(),
            ),
        ]

    def _result(
        self, taken: Taken, status: str, *, started_at: datetime | None = None, output: Any = None
    ) -> JobResult:
        job, s = taken.job, self.settings
        return JobResult(
            job_id=job.id,
            kind=job.kind,
            status=status,
            output=output,
            errors=taken.errors,
            worker=s.worker,
            device=s.worker_device,
            node=s.node,
            attempt=max(1, taken.attempt if output else len(taken.errors)),
            submitted_at=job.submitted_at,
            started_at=started_at,
            finished_at=utc_now(),
        )


def read_job(message: Msg) -> Job:
    """A job from its message; what the body leaves out comes from the subject and the stream.

    Raises ValidationError, or ValueError when body and subject contradict each other.
    """
    body = JobBody.model_validate_json(message.data)
    _, kind, priority, *rest = (subjects.untoken(t) for t in message.subject.split("."))
    if body.kind not in (None, kind):
        raise ValueError(f"kind={body.kind!r}: must be the subject's {kind!r}")
    metadata = message.metadata
    identity = rest[0] if rest else body.id or f"seq-{metadata.sequence.stream}"
    fields = body.model_dump(exclude_none=True)
    return Job.model_validate(
        fields
        | {
            "id": identity,
            "kind": kind,
            "priority": priority,
            "submitted_at": body.submitted_at or metadata.timestamp,
        }
    )


def _run_safely(kind: Kind, inputs: list[Input], context: RunContext) -> list[Outcome]:
    try:
        return kind.run(inputs, context)
    except Exception as error:  # noqa: BLE001  one bad input must not take the others with it
        if len(inputs) == 1:
            return [error]
    outputs: list[Outcome] = []
    for index, item in enumerate(inputs):
        alone = RunContext(**{**context.__dict__, "attempts": [context.attempts[index]]})
        outputs += _run_safely(kind, [item], alone)
    return outputs


def _explain(error: Exception) -> str:
    if isinstance(error, ValidationError):
        # Field and rule without the input: an error must not quote the job.
        return "; ".join(f"{'.'.join(str(p) for p in e['loc'])}: {e['msg']}" for e in error.errors())
    return str(error) or type(error).__name__

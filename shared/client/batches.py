"""Many jobs under one handle. Progress is derived from the streams' subjects, without a second store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, TypeVar

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.errors import KeyNotFoundError, KeyWrongLastSequenceError
from pydantic import BaseModel

from accelerator_autopilot.client.job_following import SOON, Find, look_again, patient
from accelerator_autopilot.client.jobs import Jobs, message_of
from accelerator_autopilot.client.ordered_results import BatchResults
from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.errors import AutopilotError, ConflictError, InvalidInputError, NotFoundError
from accelerator_autopilot.contracts.ids import new_id
from accelerator_autopilot.contracts.job_building import Options, check_id, make_options
from accelerator_autopilot.contracts.messages.jobs import Batch, Job, JobError, JobResult
from accelerator_autopilot.contracts.projects import DEFAULT_PROJECT
from accelerator_autopilot.transport.clock import utc_now
from accelerator_autopilot.transport.direct_reads import count_messages, subjects_of
from accelerator_autopilot.transport.job_id_claims import fingerprint, tokens_of_batch
from accelerator_autopilot.transport.publish_retries import Outgoing, publish_together
from accelerator_autopilot.transport.result_publishing import BUS_ERRORS, not_stored

T = TypeVar("T")
QUEUE = "JOBS"
# Jobs and bytes per write; inputs that are stored as objects concurrently.
JOBS_PER_WRITE, BYTES_PER_WRITE, LARGE_AT_ONCE = 1000, 4 * 2**20, 8
PREPARED_AT_ONCE = 100  # then other tasks get a turn at the event loop
ENDED_AT_ONCE = 1000
# Reads of `completed` after which it checks again which jobs can still end, and unreadable results checked at a time.
GONE_EVERY_LOOKS, UNREADABLE_AT_ONCE = 10, 16


class BatchView(BaseModel):
    """The progress of a batch."""

    id: str
    kind: str
    count: int
    done: int
    expired: int = 0

    @property
    def finished(self) -> bool:
        """Whether every job has a result, or had one that expired."""
        return self.done + self.expired >= self.count


@dataclass(frozen=True)
class BatchHandle:
    """A submitted batch."""

    id: str
    count: int
    batches: Batches
    there: frozenset[int] = frozenset()
    """Indices of jobs that existed already."""

    @property
    def duplicate(self) -> bool:
        """Whether it had been submitted before; missing jobs have been added."""
        return bool(self.there)

    async def progress(self) -> BatchView:
        """Return its progress."""
        return await self.batches.view(self.id)

    def results(self, timeout_s: float = 3600.0) -> AsyncIterator[JobResult]:
        """Yield results in the order of the inputs, each as soon as it and those before it are available."""
        return self.batches.results(self.id, timeout_s)

    async def outputs(self, timeout_s: float = 3600.0) -> list[Any]:
        """Return all outputs, None where a job failed."""
        return [r.output async for r in self.results(timeout_s)]

    async def cancel(self) -> int:
        """Cancel what has no result yet; returns how many jobs."""
        return await self.batches.cancel(self.id)


class Batches:
    """Submit, follow and cancel batches."""

    def __init__(
        self, nc: Client, js: JetStreamContext, jobs: Jobs, actor: str, project: str = DEFAULT_PROJECT
    ) -> None:
        self._nc, self._js, self._jobs, self._actor, self._project = nc, js, jobs, actor, project

    async def map(
        self,
        kind: str,
        payloads: Iterable[Mapping[str, Any]],
        *,
        submitter: str | None = None,
        batch_id: str | None = None,
        digest: str | None = None,
        **options: Any,
    ) -> BatchHandle:
        """Submit one job per input. The same `batch_id` is the same batch while any of its jobs or results exists.

        `digest` is the `fingerprint` of kind and inputs, if known already. Raises InvalidInputError for a bad
        argument, ConflictError when the batch has other inputs, and UnavailableError when not every job was
        confirmed; with a `batch_id` the call can then be repeated, and publishes what is missing.
        """
        chosen, inputs = make_options(**options), [dict(p) for p in payloads]
        if not inputs:
            raise InvalidInputError("payloads", 0, "a batch needs at least one input")
        who, batch_id = submitter or self._actor, batch_id or new_id()
        if "." in batch_id:
            raise InvalidInputError("batch_id", batch_id, "must not contain a dot")
        check_id("batch_id", batch_id)
        record = Batch(
            id=batch_id,
            kind=kind,
            count=len(inputs),
            submitter=who,
            project=self._project,
            actor=self._actor,
            submitted_at=utc_now(),
            fingerprint=digest or fingerprint(kind, inputs),
        )
        there = await self._register(record)
        await self._publish(batch_id, kind, inputs, there, chosen, who)
        await self._note_published(record)
        return BatchHandle(batch_id, len(inputs), self, there)

    async def _publish(
        self,
        batch_id: str,
        kind: str,
        inputs: list[dict[str, Any]],
        there: frozenset[int],
        options: Options,
        submitter: str,
    ) -> None:
        """Publish what does not exist yet. Raises the error of the first unconfirmed job."""
        missing = [number for number in range(len(inputs)) if number not in there]
        for start in range(0, len(missing), JOBS_PER_WRITE):
            part = missing[start : start + JOBS_PER_WRITE]
            jobs: dict[int, Job] = {}

            async def prepare(number: int, jobs: dict[int, Job] = jobs) -> None:
                if number % PREPARED_AT_ONCE == 0:
                    await asyncio.sleep(0)
                job_id = f"{batch_id}.{number}"
                jobs[number] = await self._jobs.prepare(job_id, kind, inputs[number], options, submitter=submitter)

            await _some_at_once(LARGE_AT_ONCE, part, prepare)
            messages = [(jobs[number], message_of(jobs[number])) for number in part]
            for group in _groups([m for m in messages if m[1].stream == QUEUE]):
                if not await publish_together(self._js, [message for _, message in group]):
                    await _some_at_once(len(group), [job for job, _ in group], self._jobs.publish)
            await _some_at_once(JOBS_PER_WRITE, [job for job, m in messages if m.stream != QUEUE], self._jobs.publish)

    async def _register(self, record: Batch) -> frozenset[int]:
        """Record the batch; returns the indices of its jobs that exist already."""
        key, body = subjects.job_key(record.id, self._project), record.model_dump_json().encode()
        try:
            kv = await self._js.key_value("batches")
            try:
                await kv.create(key, body)
            except KeyWrongLastSequenceError:
                tokens = await tokens_of_batch(self._js, record.id, self._project)
                there = frozenset(int(t) for t in tokens if t.isdecimal())
                known = Batch.model_validate_json((await kv.get(key)).value or b"")
                if there and known.fingerprint not in {"", record.fingerprint}:
                    raise ConflictError(
                        f"batch {record.id} already exists with other inputs: use another id or Idempotency-Key"
                    ) from None
                await kv.put(key, body)
                return there
        except BUS_ERRORS as error:
            raise not_stored(f"batch {record.id}", error) from error
        return frozenset()

    async def view(self, batch_id: str) -> BatchView:
        """Return the progress of a batch. Raises NotFoundError for an unknown id."""
        record = await self._record(batch_id)
        done = await count_messages(self._js, "RESULTS", subjects.results_of(batch_id, self._project))
        expired = 0
        if record.published and done < record.count:
            expired = record.count - len(await tokens_of_batch(self._js, batch_id, self._project))
        return BatchView(id=batch_id, kind=record.kind, count=record.count, done=done, expired=max(0, expired))

    async def results(self, batch_id: str, timeout_s: float | None = 3600.0) -> AsyncIterator[JobResult]:
        """Yield results in the order of the inputs. Raises TimeoutError when the next takes longer than `timeout_s`."""
        record = await self._record(batch_id)
        reader = BatchResults(
            self._nc, self._js, batch_id, self._project, parse=self._jobs.read_result, find=self._jobs.find_result,
            others=partial(self._others, batch_id), expired=partial(_expired, record),
        )  # fmt: skip
        async with aclosing(reader.in_order(record.count, timeout_s)) as results:
            async for result in results:
                yield result

    async def _note_published(self, record: Batch) -> None:
        """Without the note, followers wait for expired results; that is no reason to fail."""
        body = record.model_copy(update={"published": True}).model_dump_json().encode()
        with suppress(*BUS_ERRORS):
            await (await self._js.key_value("batches")).put(subjects.job_key(record.id, self._project), body)

    async def _others(self, batch_id: str, index: int) -> set[str] | None:
        """Return the indices of all other existing jobs and results if this one can get no result, else None."""
        try:
            if not await self._jobs.is_gone(f"{batch_id}.{index}") or not (await self._record(batch_id)).published:
                return None
            return await tokens_of_batch(self._js, batch_id, self._project) - {str(index)}
        except (AutopilotError, *BUS_ERRORS):
            return None

    async def completed(self, batch_id: str, timeout_s: float | None = 3600.0) -> AsyncIterator[tuple[int, JobResult]]:
        """Yield results as they arrive, each with its job's index; an expired one as a failed job.

        Raises TimeoutError as `results` does.
        """
        record = await self._record(batch_id)
        announced: asyncio.Queue[str] = asyncio.Queue()
        find = patient(self._nc, self._jobs.find_result)

        async def on_result(message: Msg) -> None:
            announced.put_nowait(message.subject)

        subscription = await self._nc.subscribe(subjects.results_of(batch_id, self._project), cb=on_result)
        left = {subjects.result(f"{batch_id}.{number}", self._project): number for number in range(record.count)}
        try:
            while left:
                found: list[tuple[str, JobResult]] = []
                async with asyncio.timeout(timeout_s):
                    for looks, pause_s in enumerate(look_again()):
                        found = await self._ended(batch_id, left, announced, find)
                        if not found and looks % GONE_EVERY_LOOKS == SOON:
                            found = await self._gone(record, left)
                        if found:
                            break
                        with suppress(TimeoutError):
                            announced.put_nowait(await asyncio.wait_for(announced.get(), pause_s))
                for subject, result in found:
                    yield left.pop(subject), result
        finally:
            await subscription.unsubscribe()

    async def _ended(
        self, batch_id: str, left: Mapping[str, int], announced: asyncio.Queue[str], find: Find
    ) -> list[tuple[str, JobResult]]:
        """Return existing results of the announced jobs; otherwise of all, since announcements may be lost."""
        candidates = []
        while not announced.empty():
            candidates.append(announced.get_nowait())
        if not candidates:
            with suppress(*BUS_ERRORS):
                candidates = list(await subjects_of(self._js, "RESULTS", subjects.results_of(batch_id, self._project)))
        found = []
        for subject in dict.fromkeys(c for c in candidates if c in left):
            result = await find(f"{batch_id}.{left[subject]}")
            if result is not None:
                found.append((subject, result))
        return found

    async def _gone(self, record: Batch, left: Mapping[str, int]) -> list[tuple[str, JobResult]]:
        """Return failed results for the jobs that can get none any more."""
        there: set[str] = set()
        try:
            if not (await self._record(record.id)).published:
                return []
            # A job that moves between streams meanwhile appears in the second listing.
            for _ in range(2):
                there |= await tokens_of_batch(self._js, record.id, self._project)
            stored = await subjects_of(self._js, "RESULTS", subjects.results_of(record.id, self._project))
        except (AutopilotError, *BUS_ERRORS):
            return []
        gone = [(subject, number) for subject, number in left.items() if str(number) not in there]
        for subject, number in islice(((s, n) for s, n in left.items() if s in stored), UNREADABLE_AT_ONCE):
            if await self._jobs.is_gone(f"{record.id}.{number}"):
                gone.append((subject, number))
        return [(subject, _expired(record, number)) for subject, number in gone]

    async def cancel(self, batch_id: str) -> int:
        """Cancel what has no result yet; returns how many jobs.

        Raises UnavailableError (BusyError without room for results) when not all could be cancelled; it can be
        repeated.
        """
        record = await self._record(batch_id)
        try:
            done = await subjects_of(self._js, "RESULTS", subjects.results_of(batch_id, self._project))
            jobs = (f"{batch_id}.{i}" for i in range(record.count))
            left = [job for job in jobs if subjects.result(job, self._project) not in done]
            # Workers start at the other end. No job leaves the queue before it has its result.
            left.reverse()
            ended = 0
            for start in range(0, len(left), ENDED_AT_ONCE):
                part = left[start : start + ENDED_AT_ONCE]
                ended += sum(await asyncio.gather(*(self._jobs.end_cancelled(job, record.kind) for job in part)))
            for stream, subject in subjects.stages_of_batch(batch_id, self._project):
                await self._js.purge_stream(stream, subject=subject)
        except BUS_ERRORS as error:
            raise not_stored(f"the end of batch {batch_id}", error) from error
        return ended

    async def _record(self, batch_id: str) -> Batch:
        try:
            kv = await self._js.key_value("batches")
            return Batch.model_validate_json((await kv.get(subjects.job_key(batch_id, self._project))).value or b"")
        except (KeyNotFoundError, ValueError):
            raise NotFoundError(f"batch {batch_id} does not exist") from None


def _expired(record: Batch, index: int) -> JobResult:
    now = utc_now()
    why = JobError(attempt=1, type="ResultExpired", message="its result has expired", worker="", at=now)
    return JobResult(
        job_id=f"{record.id}.{index}",
        kind=record.kind,
        status="failed",
        errors=[why],
        submitter=record.submitter,
        **record.owner,
        submitted_at=record.submitted_at,
        finished_at=now,
    )


def _groups(messages: list[tuple[Job, Outgoing]]) -> Iterator[list[tuple[Job, Outgoing]]]:
    """Split into parts that are small enough for one write."""
    group, size = list[tuple[Job, Outgoing]](), 0
    for job, message in messages:
        if group and size + len(message.body) > BYTES_PER_WRITE:
            yield group
            group, size = [], 0
        group.append((job, message))
        size += len(message.body)
    if group:
        yield group


async def _some_at_once(most: int, items: Iterable[T], work: Callable[[T], Awaitable[object]]) -> None:
    """Process every item. Raises the first error, and leaves none running."""
    waiting = iter(items)

    async def lane() -> None:
        for item in waiting:
            await work(item)

    lanes = [asyncio.create_task(lane()) for _ in range(most)]
    try:
        await asyncio.gather(*lanes)
    finally:
        for task in lanes:
            task.cancel()
        await asyncio.gather(*lanes, return_exceptions=True)

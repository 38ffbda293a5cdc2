"""Many jobs under one handle. The streams' subjects tell how far it is; no second store counts along."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.errors import KeyNotFoundError, KeyWrongLastSequenceError
from pydantic import BaseModel

from shared import subjects
from shared.client.batch_results import BatchResults
from shared.client.claims import fingerprint, tokens_of_batch
from shared.client.reading import count_messages, subjects_of
from shared.clock import utc_now
from shared.errors import ConflictError, InvalidInputError, NotFoundError
from shared.ids import new_id
from shared.jobs import Options, check_id, make_options
from shared.messages.jobs import Batch, JobResult
from shared.storing import BUS_ERRORS, not_stored

if TYPE_CHECKING:
    from shared.client.jobs import Jobs

# Jobs that are on their way to the stream at once; of those whose large inputs wait in memory only some.
AT_ONCE, LARGE_AT_ONCE = 256, 8
ENDED_AT_ONCE = 1000


class BatchView(BaseModel):
    """How far a batch is."""

    id: str
    kind: str
    count: int
    done: int

    @property
    def finished(self) -> bool:
        """Whether every job has a result."""
        return self.done >= self.count


@dataclass(frozen=True)
class BatchHandle:
    """A submitted batch."""

    id: str
    count: int
    batches: Batches
    there: frozenset[int] = frozenset()
    """Jobs that were there already, by their numbers."""

    @property
    def duplicate(self) -> bool:
        """Whether it had been submitted before; what was missing of it is there now."""
        return bool(self.there)

    async def progress(self) -> BatchView:
        """How far it is."""
        return await self.batches.view(self.id)

    def results(self, timeout_s: float = 3600.0) -> AsyncIterator[JobResult]:
        """Results in the order of the inputs, each as soon as it and those before it are there."""
        return self.batches.results(self.id, timeout_s)

    async def outputs(self, timeout_s: float = 3600.0) -> list[Any]:
        """All outputs, None where a job failed."""
        return [r.output async for r in self.results(timeout_s)]

    async def cancel(self) -> int:
        """End what has no result yet; returns how many jobs."""
        return await self.batches.cancel(self.id)


class Batches:
    """Submit, follow and cancel batches."""

    def __init__(self, nc: Client, js: JetStreamContext, jobs: Jobs, actor: str) -> None:
        self._nc, self._js, self._jobs, self._actor = nc, js, jobs, actor

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
        """One job an input. The same `batch_id` is the same batch while any of its jobs or results exists.

        `digest` is what `fingerprint` says of kind and inputs, for who knows it already.

        Raises InvalidInputError for a bad argument, ConflictError when the batch has other inputs, and
        UnavailableError when not every job was confirmed; with a `batch_id` the call can then be repeated, and
        publishes what is missing.
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
            submitted_at=utc_now(),
            fingerprint=digest or fingerprint(kind, inputs),
        )
        there = await self._register(record)
        await self._publish(batch_id, kind, inputs, there, chosen, who)
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
        """Publish what is not there yet. Raises what the first job raised that was not confirmed."""
        missing = (number for number in range(len(inputs)) if number not in there)
        large = asyncio.Semaphore(LARGE_AT_ONCE)

        async def lane() -> None:
            for number in missing:
                job_id = f"{batch_id}.{number}"
                job = await self._jobs.prepare(job_id, kind, inputs[number], options, submitter=submitter, large=large)
                await self._jobs.publish(job)

        lanes = [asyncio.create_task(lane()) for _ in range(min(AT_ONCE, len(inputs)))]
        try:
            await asyncio.gather(*lanes)
        finally:
            for task in lanes:
                task.cancel()
            await asyncio.gather(*lanes, return_exceptions=True)

    async def _register(self, record: Batch) -> frozenset[int]:
        """Make the batch known; which of its jobs are there already, by their numbers."""
        key, body = subjects.token(record.id), record.model_dump_json().encode()
        try:
            kv = await self._js.key_value("batches")
            try:
                await kv.create(key, body)
            except KeyWrongLastSequenceError:
                there = frozenset(int(t) for t in await tokens_of_batch(self._js, record.id) if t.isdecimal())
                known = Batch.model_validate_json((await kv.get(key)).value or b"")
                if there and known.fingerprint not in {"", record.fingerprint}:
                    raise ConflictError(f"batch {record.id} is another batch: it has other inputs") from None
                await kv.put(key, body)
                return there
        except BUS_ERRORS as error:
            raise not_stored(f"batch {record.id}", error) from error
        return frozenset()

    async def view(self, batch_id: str) -> BatchView:
        """How far a batch is. Raises NotFoundError for an unknown id."""
        record = await self._record(batch_id)
        done = await count_messages(self._js, "RESULTS", subjects.results_of(batch_id))
        return BatchView(id=batch_id, kind=record.kind, count=record.count, done=done)

    async def results(self, batch_id: str, timeout_s: float = 3600.0) -> AsyncIterator[JobResult]:
        """Results in the order of the inputs. Raises TimeoutError when the next takes longer than `timeout_s`."""
        record = await self._record(batch_id)
        reader = BatchResults(self._nc, self._js, batch_id, parse=self._jobs.read_result, find=self._jobs.find_result)
        async with aclosing(reader.in_order(record.count, timeout_s)) as results:
            async for result in results:
                yield result

    async def cancel(self, batch_id: str) -> int:
        """End what has no result yet; returns how many jobs.

        Raises UnavailableError (BusyError without room for results) when not all could be ended; it can be repeated.
        """
        record = await self._record(batch_id)
        try:
            done = await subjects_of(self._js, "RESULTS", subjects.results_of(batch_id))
            left = [job for job in (f"{batch_id}.{i}" for i in range(record.count)) if subjects.result(job) not in done]
            # Workers begin at the other end. No job leaves the queue before it has its result.
            left.reverse()
            ended = 0
            for start in range(0, len(left), ENDED_AT_ONCE):
                part = left[start : start + ENDED_AT_ONCE]
                ended += sum(await asyncio.gather(*(self._jobs.end_cancelled(job, record.kind) for job in part)))
            for stream, subject in subjects.stages_of_batch(batch_id):
                await self._js.purge_stream(stream, subject=subject)
        except BUS_ERRORS as error:
            raise not_stored(f"the end of batch {batch_id}", error) from error
        return ended

    async def _record(self, batch_id: str) -> Batch:
        try:
            kv = await self._js.key_value("batches")
            return Batch.model_validate_json((await kv.get(subjects.token(batch_id))).value or b"")
        except (KeyNotFoundError, ValueError):
            raise NotFoundError(f"batch {batch_id} is not known") from None

"""Many jobs under one handle. The streams' subjects tell how far it is; no second store counts along."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.errors import KeyNotFoundError, KeyWrongLastSequenceError
from pydantic import BaseModel

from shared import subjects
from shared.client.claims import fingerprint, tokens_of_batch
from shared.client.following import look_again, patient
from shared.client.reading import count_messages, subjects_of
from shared.clock import utc_now
from shared.errors import ConflictError, InvalidInputError, NotFoundError
from shared.ids import new_id
from shared.jobs import address, check_id, make_options
from shared.messages.jobs import Batch, JobResult
from shared.publishing import publish_patiently
from shared.storing import BUS_ERRORS, not_stored

if TYPE_CHECKING:
    from shared.client.jobs import Jobs

WINDOW = 1000
CONFIRM_S = 30.0


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
        **options: Any,
    ) -> BatchHandle:
        """One job an input. The same `batch_id` is the same batch while any of its jobs or results exists.

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
            fingerprint=fingerprint(kind, inputs),
        )
        there = await self._register(record)
        missing = [i for i in range(len(inputs)) if str(i) not in there]
        for start in range(0, len(missing), WINDOW):
            prepared = [
                await self._jobs.prepare(f"{batch_id}.{i}", kind, inputs[i], chosen, submitter=who)
                for i in missing[start : start + WINDOW]
            ]
            await self._confirmed([address(job, utc_now()) for job in prepared], [_body(job) for job in prepared])
        return BatchHandle(batch_id, len(inputs), self)

    async def _register(self, record: Batch) -> set[str]:
        """Make the batch known; which of its jobs are there already, by their numbers."""
        key, body = subjects.token(record.id), record.model_dump_json().encode()
        try:
            kv = await self._js.key_value("batches")
            try:
                await kv.create(key, body)
            except KeyWrongLastSequenceError:
                there = await tokens_of_batch(self._js, record.id)
                known = Batch.model_validate_json((await kv.get(key)).value or b"")
                if there and known.fingerprint not in {"", record.fingerprint}:
                    raise ConflictError(f"batch {record.id} is another batch: it has other inputs") from None
                await kv.put(key, body)
                return there
        except BUS_ERRORS as error:
            raise not_stored(f"batch {record.id}", error) from error
        return set()

    async def _confirmed(self, addresses: Sequence[tuple[str, str, dict[str, str]]], bodies: list[bytes]) -> None:
        try:
            async with asyncio.timeout(CONFIRM_S):
                await asyncio.gather(
                    *(
                        publish_patiently(self._js, subject, body, headers, stream=stream)
                        for (stream, subject, headers), body in zip(addresses, bodies, strict=True)
                    )
                )
        except (*BUS_ERRORS, TimeoutError) as error:
            raise not_stored("a job of the batch", error) from error

    async def view(self, batch_id: str) -> BatchView:
        """How far a batch is. Raises NotFoundError for an unknown id."""
        record = await self._record(batch_id)
        done = await count_messages(self._js, "RESULTS", subjects.results_of(batch_id))
        return BatchView(id=batch_id, kind=record.kind, count=record.count, done=done)

    async def results(self, batch_id: str, timeout_s: float = 3600.0) -> AsyncIterator[JobResult]:
        """Results in the order of the inputs. Raises TimeoutError when the next takes longer than `timeout_s`."""
        record = await self._record(batch_id)
        arrived, find = asyncio.Event(), patient(self._nc, self._jobs.find_result)

        async def on_result(_: Msg) -> None:
            arrived.set()

        subscription = await self._nc.subscribe(subjects.results_of(batch_id), cb=on_result)
        try:
            for index in range(record.count):
                found = None
                async with asyncio.timeout(timeout_s):
                    for pause_s in look_again():
                        arrived.clear()
                        found = await find(f"{batch_id}.{index}")
                        if found is not None:
                            break
                        with suppress(TimeoutError):
                            await asyncio.wait_for(arrived.wait(), pause_s)
                if found is not None:
                    yield found
        finally:
            await subscription.unsubscribe()

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
            for start in range(0, len(left), WINDOW):
                part = left[start : start + WINDOW]
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


def _body(job: BaseModel) -> bytes:
    return job.model_dump_json(exclude_none=True).encode()

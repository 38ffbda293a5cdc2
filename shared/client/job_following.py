"""Follow a job: its progress while it runs, then its result."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from itertools import chain, repeat

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from pydantic import ValidationError

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.errors import NotFoundError, UnavailableError
from accelerator_autopilot.contracts.messages.jobs import JobProgress, JobResult
from accelerator_autopilot.transport.result_publishing import BUS_ERRORS

# The server notifies subscribers before it has stored the message: who subscribes just then and reads at once gets
# neither. So the second read comes soon, and later ones cover lost notifications.
RECHECK_S = (0.02, 0.2, 2.0)
# After this many reads a waiting caller checks whether a result can arrive at all.
SOON = 2
MAX_WAITING = 10_000

Find = Callable[[str], Awaitable[JobResult | None]]
IsGone = Callable[[str], Awaitable[bool]]


class _Reports(asyncio.Queue["Msg | None"]):
    async def report(self, message: Msg) -> None:
        # A slow reader loses the oldest progress messages, never the result.
        if self.qsize() >= MAX_WAITING:
            self.get_nowait()
        self.put_nowait(message)


def nowhere(job_id: str) -> NotFoundError:
    """Return the error for a job that has no result and will get none."""
    return NotFoundError(f"job {job_id} is neither queued nor finished within its time to live")


def look_again() -> Iterator[float]:
    """Yield how long to wait for notifications before each next read, forever."""
    return chain(RECHECK_S, repeat(RECHECK_S[-1]))


def patient(nc: Client, find: Find) -> Find:
    """Wrap a read to find nothing while the broker does not answer, so that waiting survives an outage.

    Raises what the read does once the connection is permanently closed.
    """

    async def read(job_id: str) -> JobResult | None:
        try:
            return await find(job_id)
        except (UnavailableError, *BUS_ERRORS):
            if nc.is_closed:
                raise
            return None

    return read


async def follow(
    nc: Client,
    find: Find,
    is_gone: IsGone,
    job: tuple[str, str],
    begin: Callable[[], Awaitable[object]] | None = None,
) -> AsyncIterator[JobProgress | JobResult]:
    """Subscribe, then `begin` (submit the job, for example), then yield progress and finally the result.

    `job` is its project and id. Raises NotFoundError when no result can arrive any more.
    """
    project, job_id = job
    reports = _Reports()
    progress = await nc.subscribe(subjects.progress(job_id, project), cb=reports.report)

    has_ended = asyncio.Event()

    async def ended(_: Msg) -> None:
        has_ended.set()
        await reports.put(None)

    result = await nc.subscribe(subjects.result(job_id, project), cb=ended)
    found: JobResult | None = None
    try:
        if begin is not None:
            await begin()
        read, pauses, looks = patient(nc, find), look_again(), 0
        while (found := await read(job_id)) is None:
            if looks >= SOON and await is_gone(job_id):
                raise nowhere(job_id)
            looks += 1
            if has_ended.is_set():
                # Its result will be stored shortly, and may be kept only briefly.
                has_ended.clear()
                pauses = look_again()
            async for report in _until_ended(reports, next(pauses)):
                yield report
        # Messages published before the result may still be in flight on this connection.
        with suppress(*BUS_ERRORS):
            await nc.flush()
        while not reports.empty():
            for report in _parsed(reports.get_nowait()):
                yield report
        if found is not None:
            yield found
    finally:
        # Whoever stopped listening may have closed the connection before.
        with suppress(nats.errors.Error):
            await progress.unsubscribe()
            await result.unsubscribe()


async def _until_ended(reports: asyncio.Queue[Msg | None], pause_s: float) -> AsyncIterator[JobProgress]:
    """Yield progress until the end is announced or nothing arrives for a while."""
    while True:
        try:
            message = await asyncio.wait_for(reports.get(), pause_s)
        except TimeoutError:
            return
        if message is None:
            return
        for report in _parsed(message):
            yield report


def _parsed(message: Msg | None) -> list[JobProgress]:
    try:
        return [JobProgress.model_validate_json(message.data)] if message is not None else []
    except ValidationError:
        return []

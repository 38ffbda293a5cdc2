"""Following a job: what it tells while it runs, then its one result."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from nats.aio.client import Client
from nats.aio.msg import Msg
from pydantic import ValidationError

from shared import subjects
from shared.messages.jobs import JobProgress, JobResult

LOOK_AGAIN_S = 2.0
Find = Callable[[str], Awaitable[JobResult | None]]


async def follow(
    nc: Client, find: Find, job_id: str, begin: Callable[[], Awaitable[object]] | None = None
) -> AsyncIterator[JobProgress | JobResult]:
    """Listen, then `begin` (submit the job, say), then yield progress as it comes and the result at last."""
    told: asyncio.Queue[Msg | None] = asyncio.Queue()
    progress = await nc.subscribe(subjects.progress(job_id), cb=told.put)

    async def ended(_: Msg) -> None:
        await told.put(None)

    result = await nc.subscribe(subjects.result(job_id), cb=ended)
    try:
        if begin is not None:
            await begin()
        while True:
            found = await find(job_id)
            if found is not None:
                break
            try:
                async with asyncio.timeout(LOOK_AGAIN_S):
                    while (message := await told.get()) is not None:
                        for report in _parsed(message):
                            yield report
            except TimeoutError:
                continue
        # What was told before the result may still be on its way through this connection.
        await nc.flush()
        while not told.empty():
            message = told.get_nowait()
            for report in _parsed(message):
                yield report
        yield found
    finally:
        await progress.unsubscribe()
        await result.unsubscribe()


def _parsed(message: Msg | None) -> list[JobProgress]:
    try:
        return [JobProgress.model_validate_json(message.data)] if message is not None else []
    except ValidationError:
        return []

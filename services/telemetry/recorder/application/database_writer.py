"""Write to a database that may be unreachable, and acknowledge only what is committed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import asyncpg
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from prometheus_client import CollectorRegistry, Histogram

from accelerator_autopilot.runtime.database import DATABASE_ERRORS
from accelerator_autopilot.runtime.health import HealthState
from accelerator_autopilot.runtime.supervision import beat
from accelerator_autopilot.transport.wire_protocol import answer_all

log = logging.getLogger(__name__)

# Only these mean that the rows themselves are invalid; on any other error the database is unavailable, and rows wait.
REFUSED = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError)
KEEP_ALIVE_S = 10.0


class DatabaseWriter:
    """Writes batches of messages, retrying for as long as it takes."""

    def __init__(self, health: HealthState, registry: CollectorRegistry) -> None:
        self._health = health
        self._seconds = Histogram(
            "autopilot_record_write_seconds", "duration of one write transaction", ["stream"], registry=registry
        )

    async def write(self, stream: str, batch: Sequence[Msg], write: Callable[[], Awaitable[int]]) -> int:
        """Write, waiting while the database is unavailable. Raises one of REFUSED when it rejects the data itself."""
        while True:
            beat()
            started = time.monotonic()
            try:
                async with _kept_alive(batch):
                    written = await write()
            except REFUSED as error:
                self._health.report(f"writing {stream}", ok=True)
                # The error's text quotes the rows.
                log.warning("the database rejected rows", extra={"stream": stream, "error": type(error).__name__})
                raise
            except DATABASE_ERRORS as error:
                if _is_cancelled():
                    # The cleanup of a statement failed and its error replaced the cancellation.
                    raise asyncio.CancelledError from error
                reason = f"{type(error).__name__}: {error}" if str(error) else f"no answer ({type(error).__name__})"
                self._health.report(f"writing {stream}", ok=False, reason=reason)
                await asyncio.sleep(0.5)
            else:
                self._seconds.labels(stream).observe(time.monotonic() - started)
                self._health.report(f"writing {stream}", ok=True)
                return written


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


@asynccontextmanager
async def _kept_alive(batch: Sequence[Msg]) -> AsyncIterator[None]:
    """While waiting for a hung server, the messages must not be redelivered to others."""

    async def keep() -> None:
        while True:
            await asyncio.sleep(KEEP_ALIVE_S)
            await keep_alive(batch)

    keeping = asyncio.create_task(keep())
    try:
        yield
    finally:
        keeping.cancel()


async def keep_alive(batch: Sequence[Msg]) -> None:
    """Extend the acknowledgement deadline of these messages."""
    try:
        if batch:
            await answer_all(batch[0]._client, [message.reply for message in batch], b"+WPI")  # noqa: SLF001  no other
    except nats.errors.Error:
        log.info("broker unreachable too")


async def acknowledge(nc: Client, batch: Sequence[Msg]) -> None:
    """Acknowledge written messages; an unconfirmed one is redelivered and deduplicated."""
    try:
        await answer_all(nc, [message.reply for message in batch], b"+ACK")
        for message in batch:
            message._ackd = True  # noqa: SLF001  as its own `ack` does, which looks at the message's headers first
    except nats.errors.Error:
        log.info("acknowledgement not sent")

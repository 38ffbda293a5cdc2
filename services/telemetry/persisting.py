"""Writing to a database that may be away, and acknowledging only what is written."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence

import asyncpg
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from prometheus_client import CollectorRegistry, Histogram

from shared.database import DATABASE_ERRORS
from shared.health import HealthState

log = logging.getLogger(__name__)

# Only these say that the rows themselves are wrong; with anything else the database is away, and rows wait.
REFUSED = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError)
KEEP_ALIVE_S = 10.0


class Persister:
    """Writes batches of messages, for as long as that takes."""

    def __init__(self, health: HealthState, registry: CollectorRegistry) -> None:
        self._health = health
        self._seconds = Histogram(
            "autopilot_record_write_seconds", "time of one transaction", ["stream"], registry=registry
        )

    async def write(self, stream: str, batch: Sequence[Msg], write: Callable[[], Awaitable[int]]) -> int:
        """Write, waiting while the database is away. Raises one of REFUSED when it refuses the data itself."""
        kept_alive = time.monotonic()
        while True:
            started = time.monotonic()
            try:
                written = await write()
            except REFUSED as error:
                # Its text quotes the rows.
                log.warning("the database refused rows", extra={"stream": stream, "error": type(error).__name__})
                raise
            except DATABASE_ERRORS as error:
                self._health.report("database", ok=False, reason=f"{type(error).__name__}: {error}")
                if time.monotonic() - kept_alive > KEEP_ALIVE_S:
                    kept_alive = time.monotonic()
                    await keep_alive(batch)
                await asyncio.sleep(0.5)
            else:
                self._seconds.labels(stream).observe(time.monotonic() - started)
                self._health.report("database", ok=True)
                return written


async def keep_alive(batch: Sequence[Msg]) -> None:
    """Tell the server that the messages are still being worked on."""
    try:
        for message in batch:
            await message.in_progress()
    except nats.errors.Error:
        log.info("broker away too")


async def acknowledge(nc: Client, batch: Sequence[Msg]) -> None:
    """Acknowledge written messages; one that is not confirmed comes again and is written once all the same."""
    try:
        for message in batch:
            await nc.publish(message.reply, b"+ACK")
    except nats.errors.Error:
        log.info("acknowledgement not sent")

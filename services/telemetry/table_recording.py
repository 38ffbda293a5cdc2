"""Every stream besides the frames to its table."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import asyncpg
from nats.aio.client import Client
from nats.js import JetStreamContext
from prometheus_client import CollectorRegistry, Counter
from pydantic import ValidationError

from services.telemetry.adapters.record_rows import StreamTable
from services.telemetry.persisting import Persister, acknowledge
from shared.consuming import pull_batches

log = logging.getLogger(__name__)


class TableRecorder:
    """Writes messages as rows; a message that no row can be made of is counted and dropped."""

    def __init__(self, persister: Persister, registry: CollectorRegistry, *, batch: int) -> None:
        self._persister, self._batch = persister, batch
        self._rows = Counter("autopilot_recorded_rows", "rows written", ["stream"], registry=registry)
        self._bad = Counter("autopilot_record_errors", "messages without a row", ["stream"], registry=registry)

    async def run(self, nc: Client, js: JetStreamContext, pool: asyncpg.Pool[Any], table: StreamTable) -> None:
        """Record one stream until cancelled."""
        async for batch in pull_batches(js, table.stream, table.durable, batch=self._batch):
            rows = []
            for message in batch:
                try:
                    rows.append(table.row(message))
                except (ValidationError, ValueError, KeyError):
                    self._bad.labels(table.stream).inc()
                    log.warning("bad message", extra={"subject": message.subject, "stream": table.stream})
            if await self._persister.write(table.stream, batch, partial(insert, pool, table.insert, rows)) is None:
                for row in rows:
                    if (
                        await self._persister.write(table.stream, batch, partial(insert, pool, table.insert, [row]))
                        is None
                    ):
                        self._bad.labels(table.stream).inc()
            self._rows.labels(table.stream).inc(len(rows))
            await acknowledge(nc, batch)


async def insert(pool: asyncpg.Pool[Any], statement: str, rows: list[tuple[Any, ...]]) -> int:
    """Insert rows in one transaction."""
    if rows:
        async with pool.acquire() as connection, connection.transaction():
            await connection.executemany(statement, rows)
    return len(rows)

"""Write every stream except frames to its table."""

from __future__ import annotations

import logging
from contextlib import aclosing
from functools import partial

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from prometheus_client import CollectorRegistry, Counter

from accelerator_autopilot.runtime.consumers import pull_batches
from accelerator_autopilot.runtime.poison_messages import PoisonRule
from accelerator_autopilot.runtime.supervision import beat
from accelerator_autopilot.telemetry.recorder.application.database_writer import REFUSED, DatabaseWriter, acknowledge
from accelerator_autopilot.telemetry.recorder.ports import RecordStore, RecordTable, Row

log = logging.getLogger(__name__)


class RecordWriter:
    """Writes messages as rows; a message that cannot become a row, or that the database rejects, is quarantined."""

    def __init__(
        self, persister: DatabaseWriter, poison: PoisonRule, registry: CollectorRegistry, *, batch: int
    ) -> None:
        self._persister, self._poison, self._batch = persister, poison, batch
        self._rows = Counter("autopilot_recorded_rows", "database rows written", ["stream"], registry=registry)
        self._bad = Counter(
            "autopilot_record_errors", "messages that could not be written as a row", ["stream"], registry=registry
        )

    async def run(self, nc: Client, js: JetStreamContext, store: RecordStore, table: RecordTable) -> None:
        """Record one stream until cancelled."""
        async with aclosing(pull_batches(js, table.stream, table.durable, batch=self._batch)) as batches:
            async for batch in batches:
                beat()
                rows = [pair for message in batch if (pair := await self._row(table, message)) is not None]
                written = await self._write(store, table, rows)
                self._rows.labels(table.stream).inc(len(written))
                await acknowledge(nc, written)

    async def _row(self, table: RecordTable, message: Msg) -> tuple[Msg, Row] | None:
        try:
            row = table.row(message)
        except Exception as error:  # noqa: BLE001  whatever a message makes of itself
            await self._reject(table, message, error)
            return None
        # PostgreSQL's text type cannot hold a NUL.
        return message, tuple(value.replace("\0", "") if isinstance(value, str) else value for value in row)

    async def _write(self, store: RecordStore, table: RecordTable, rows: list[tuple[Msg, Row]]) -> list[Msg]:
        """Write all rows at once or, when one is rejected, each half by itself; returns what is written."""
        batch = [message for message, _ in rows]
        if not rows:
            return []
        try:
            await self._persister.write(table.stream, batch, partial(store.write, table.stream, [r for _, r in rows]))
        except Exception as error:  # noqa: BLE001  also what a strange row makes of our own code
            if len(rows) == 1:
                await self._reject(table, batch[0], error)
                return []
            half = len(rows) // 2
            return await self._write(store, table, rows[:half]) + await self._write(store, table, rows[half:])
        return batch

    async def _reject(self, table: RecordTable, message: Msg, error: Exception) -> None:
        self._bad.labels(table.stream).inc()
        hopeless = isinstance(error, (*REFUSED, ValueError, KeyError))
        await self._poison.settle(message, table.durable, error, hopeless=hopeless)

"""Takes every stream to the database: acknowledge after the commit, wait while the database is away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import asyncpg
import nats.errors
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from prometheus_client import Counter, Histogram
from pydantic import ValidationError

from services.telemetry.adapters.frame_store import PostgresFrameStore, keep_partitions
from services.telemetry.adapters.record_rows import TABLES, StreamTable
from services.telemetry.settings import RecorderSettings
from shared.client.reading import bucket_items
from shared.clock import utc_now
from shared.consuming import Watched, pull_batches
from shared.database import DATABASE_ERRORS, connect_pool, wait_until_migrated
from shared.errors import InvalidInputError, UnavailableError
from shared.frames import TelemetryFrame, decode
from shared.messages.telemetry import NodeInventory
from shared.service import Service
from shared.streams import durable

log = logging.getLogger(__name__)

FRAMES_DURABLE = "recorder-frames"
# Only these say that the rows themselves are wrong; with anything else the database is away, and rows wait.
_BAD_ROWS = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError)


class Recorder:
    """One recorder process; any number of them share the work."""

    def __init__(self, settings: RecorderSettings, service: Service) -> None:
        self._settings, self._service, self._health = settings, service, service.health
        self.watched = [Watched("TELEMETRY", durable(FRAMES_DURABLE, max_ack_pending=20_000))]
        self.watched += [Watched(t.stream, durable(t.durable)) for t in TABLES]
        registry = service.registry
        self._rows = Counter("autopilot_recorded_rows", "rows written", ["stream"], registry=registry)
        self._bad = Counter(
            "autopilot_record_errors", "messages that no row can be made of", ["stream"], registry=registry
        )
        self._lost = Counter("autopilot_frames_missing", "gaps in the agents' frame numbers", registry=registry)
        self._age = Histogram("autopilot_frame_age_seconds", "sample to committed row", registry=registry)
        self._sequences: dict[str, tuple[int, int]] = {}
        self._pool: asyncpg.Pool[Any] | None = None

    async def run(self, js: JetStreamContext) -> None:
        """Record until cancelled."""
        dsn = self._settings.database_url.get_secret_value()
        self._health.report("database", ok=False, reason="not connected yet")
        await wait_until_migrated(dsn)
        while self._pool is None:
            try:
                self._pool = await connect_pool(dsn)
            except UnavailableError as error:
                self._health.report("database", ok=False, reason=str(error))
                await asyncio.sleep(0.5)
        store = PostgresFrameStore(self._pool)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._upkeep(js))
            group.create_task(self._record_frames(js, store))
            for table in TABLES:
                group.create_task(self._record_table(js, table))

    async def _record_frames(self, js: JetStreamContext, store: PostgresFrameStore) -> None:
        async for batch in pull_batches(js, "TELEMETRY", FRAMES_DURABLE, batch=self._settings.frame_batch):
            frames = [f for f in (self._decode(m) for m in batch) if f is not None]
            written = await self._persist(batch, partial(store.write, frames))
            if written is None:
                # One frame that the database will never take must not hold up the others.
                for frame in frames:
                    if await self._persist([], partial(store.write, [frame])) is None:
                        self._bad.labels("TELEMETRY").inc()
            self._rows.labels("TELEMETRY").inc(written or 0)
            await _acknowledge(batch)
            now = utc_now()
            for frame in frames:
                self._age.observe(max(0.0, (now - frame.tick_time(frame.ticks - 1)).total_seconds()))
                await self._watch_sequence(frame)

    def _decode(self, message: Msg) -> TelemetryFrame | None:
        try:
            return decode(message.data)
        except InvalidInputError as error:
            self._bad.labels("TELEMETRY").inc()
            log.warning("bad frame", extra={"subject": message.subject, "error": str(error)})
            return None

    async def _watch_sequence(self, frame: TelemetryFrame) -> None:
        epoch, last = self._sequences.get(frame.node, (frame.epoch_us, frame.sequence - 1))
        missing = frame.sequence - last - 1 if epoch == frame.epoch_us else 0
        if missing > 0:
            self._lost.inc(missing)
            log.warning("frames missing", extra={"node": frame.node, "missing": missing})
        if frame.epoch_us > epoch or frame.sequence > last:
            self._sequences[frame.node] = (frame.epoch_us, frame.sequence)

    async def _record_table(self, js: JetStreamContext, table: StreamTable) -> None:
        async for batch in pull_batches(js, table.stream, table.durable, batch=self._settings.record_batch):
            rows = []
            for message in batch:
                try:
                    rows.append(table.row(message))
                except (ValidationError, ValueError, KeyError):
                    self._bad.labels(table.stream).inc()
                    log.warning("bad message", extra={"subject": message.subject, "stream": table.stream})
            if await self._persist(batch, partial(self._insert, table.insert, rows)) is None:
                for row in rows:
                    if await self._persist([], partial(self._insert, table.insert, [row])) is None:
                        self._bad.labels(table.stream).inc()
            self._rows.labels(table.stream).inc(len(rows))
            await _acknowledge(batch)

    async def _insert(self, statement: str, rows: list[tuple[Any, ...]]) -> int:
        assert self._pool is not None  # noqa: S101  run() made it
        if rows:
            async with self._pool.acquire() as connection, connection.transaction():
                await connection.executemany(statement, rows)
        return len(rows)

    async def _persist(self, batch: list[Msg], write: Callable[[], Awaitable[int]]) -> int | None:
        """Write, waiting while the database is away; None when it refuses the data itself."""
        while True:
            try:
                written = await write()
            except _BAD_ROWS as error:
                log.exception("the database refused rows", extra={"error": type(error).__name__})
                return None
            except DATABASE_ERRORS as error:
                self._health.report("database", ok=False, reason=f"{type(error).__name__}: {error}")
                await _keep_alive(batch)
                await asyncio.sleep(0.5)
            else:
                self._health.report("database", ok=True)
                return written

    async def _upkeep(self, js: JetStreamContext) -> None:
        assert self._pool is not None  # noqa: S101  run() made it
        while True:
            try:
                await keep_partitions(self._pool, utc_now(), self._settings.retention_days)
                await self._describe_devices(js)
                self._health.report("database", ok=True)
            except (*DATABASE_ERRORS, nats.errors.Error) as error:
                self._health.report("database", ok=False, reason=f"{type(error).__name__}: {error}")
            await asyncio.sleep(5.0)

    async def _describe_devices(self, js: JetStreamContext) -> None:
        rows = [
            (
                i.node,
                d.device,
                d.model,
                d.vendor,
                d.source,
                d.simulated,
                d.memory_bytes,
                d.power_min_w,
                d.power_max_w,
                d.power_default_w,
            )
            for i in (await bucket_items(js, "inventory", NodeInventory)).values()
            for d in i.devices
        ]
        await self._insert(
            "INSERT INTO devices (node, device, model, vendor, source, simulated, memory_bytes, power_min_w, "
            "power_max_w, power_default_w) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) "
            "ON CONFLICT (node, device) DO UPDATE SET model = excluded.model, vendor = excluded.vendor, "
            "source = excluded.source, simulated = excluded.simulated, memory_bytes = excluded.memory_bytes, "
            "power_min_w = excluded.power_min_w, power_max_w = excluded.power_max_w, "
            "power_default_w = excluded.power_default_w, last_seen = now()",
            rows,
        )


async def _keep_alive(batch: list[Msg]) -> None:
    try:
        for message in batch:
            await message.in_progress()
    except nats.errors.Error:
        log.info("broker away too")


async def _acknowledge(batch: list[Msg]) -> None:
    try:
        for message in batch:
            await message.ack()
    except nats.errors.Error:
        # Delivered again later, and written once all the same.
        log.info("acknowledgement not sent")

"""Write every stream to the database, and maintain the database."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Any, TypeAlias

import asyncpg
from nats.js import JetStreamContext
from prometheus_client import Gauge

from accelerator_autopilot.contracts.errors import UnavailableError
from accelerator_autopilot.contracts.messages.telemetry import NodeInventory
from accelerator_autopilot.contracts.streams import durable
from accelerator_autopilot.runtime.broker import client_of
from accelerator_autopilot.runtime.bus import BUS_ERRORS
from accelerator_autopilot.runtime.consumers import Watched
from accelerator_autopilot.runtime.database import DATABASE_ERRORS, connect_pool, wait_until_migrated
from accelerator_autopilot.runtime.service import Service
from accelerator_autopilot.runtime.supervision import Work, beat
from accelerator_autopilot.telemetry.device_metrics.latest_samples import LatestSamples
from accelerator_autopilot.telemetry.recorder.application.database_writer import DatabaseWriter
from accelerator_autopilot.telemetry.recorder.application.frame_number_recovery import recount
from accelerator_autopilot.telemetry.recorder.application.frame_writer import DURABLE, FRAMES, FrameWriter
from accelerator_autopilot.telemetry.recorder.application.record_writer import RecordWriter
from accelerator_autopilot.telemetry.recorder.application.stream_backlog import StreamBacklog
from accelerator_autopilot.telemetry.recorder.domain.frame_sequence import Totals
from accelerator_autopilot.telemetry.recorder.ports import (
    FleetStore,
    RecorderStorage,
    RecordTable,
    RetentionUpkeep,
    RollupUpkeep,
)
from accelerator_autopilot.telemetry.settings import RecorderSettings
from accelerator_autopilot.transport.clock import utc_now
from accelerator_autopilot.transport.direct_reads import bucket_items

log = logging.getLogger(__name__)

Pool: TypeAlias = "asyncpg.Pool[Any]"

UPKEEP_PERIOD_S = 5.0
SWEEP_PERIOD_S = 60.0
COUNT_PERIOD_S = 10.0
PROBE_HANG_TIMEOUT_S = 30.0
# Statements that wait for a hung server time out first, one after another.
HANG_TIMEOUT_S = 1200.0
# The statements of one hour run one after another, each within its time limit.
ROLLUP_STATEMENTS = 4


class Recorder:
    """One recorder process; any number of them share the work.

    `storage` creates what uses a pool of connections.
    """

    def __init__(
        self,
        settings: RecorderSettings,
        service: Service,
        latest: LatestSamples,
        tables: Sequence[RecordTable],
        storage: Callable[[Pool], RecorderStorage],
    ) -> None:
        self._settings, self._service, self._health = settings, service, service.health
        self._tables, self._storage = tables, storage
        self.watched = [FRAMES, *(Watched(t.stream, durable(t.durable)) for t in tables)]
        persister = DatabaseWriter(service.health, service.registry)
        self.frames = FrameWriter(
            persister,
            service.poison,
            service.registry,
            latest,
            batch=settings.frame_batch,
            linger_s=settings.frame_linger_s,
        )
        self._records = RecordWriter(persister, service.poison, service.registry, batch=settings.record_batch)
        self._missing = Gauge(
            "autopilot_frames_missing", "frames of the last hour that no recorder received", registry=service.registry
        )
        self._headroom = StreamBacklog(FRAMES.stream, DURABLE, service.health, service.registry)
        self._name = f"{settings.node}/{os.getpid()}"
        self._described: dict[str, datetime] = {}
        self._missing_before: dict[str, int] = {}
        self._parts: list[str] = []

    async def run(self, js: JetStreamContext) -> None:
        """Record until cancelled."""
        dsn = self._settings.database_url.get_secret_value()
        self._health.report("database", ok=False, reason="not connected yet")
        await wait_until_migrated(dsn)
        pool = await self._connect(dsn)
        try:
            await self._run_parts(js, self._storage(pool))
        finally:
            # The next attempt opens its own; unwritten messages are redelivered.
            for name in self._parts:
                self._service.supervisor.end(name)
            pool.terminate()

    async def _run_parts(self, js: JetStreamContext, storage: RecorderStorage) -> None:
        nc = client_of(self._service.broker)
        # A part that fails or hangs restarts by itself and stops no other.
        self._start("database probe", storage.probe, PROBE_HANG_TIMEOUT_S)
        self._start("partitions", lambda: self._maintain(storage, js))
        self._start("retention", lambda: self._sweep(storage.retention))
        self._start("rollups", lambda: self._roll_up(storage.rollups), ROLLUP_STATEMENTS * storage.rollups.longest_s)
        self._start("frame counts", lambda: self._count_frames(storage.fleet, js))
        self._start("queue counts", lambda: self._count_queue(storage, js))
        self._start("frames", lambda: self.frames.run(nc, storage.frames()))
        for table in self._tables:
            self._start(f"table {table.stream}", partial(self._records.run, nc, js, storage.records, table))
        await asyncio.Event().wait()

    def _start(self, name: str, work: Work, hang_timeout_s: float | None = None) -> None:
        self._parts.append(name)
        self._service.supervise(name, work, hang_timeout_s=hang_timeout_s or HANG_TIMEOUT_S)

    async def _connect(self, dsn: str) -> Pool:
        while True:
            try:
                return await connect_pool(
                    dsn,
                    size=6,
                    statement_cache=self._settings.database_statement_cache,
                    timeout_s=self._settings.database_timeout_s,
                )
            except UnavailableError as error:
                self._health.report("database", ok=False, reason=str(error))
                await asyncio.sleep(0.5)

    async def _maintain(self, storage: RecorderStorage, js: JetStreamContext) -> None:
        while True:
            beat()
            began = time.monotonic()
            try:
                await storage.partitions.keep(utc_now())
                await storage.fleet.prune_runs()
                await self._headroom.check(js, utc_now())
                await self._describe_nodes(storage.fleet, js)
                self._health.report("upkeep", ok=True)
            except (*DATABASE_ERRORS, *BUS_ERRORS) as error:
                self._health.report("upkeep", ok=False, reason=f"{type(error).__name__}: {error}")
                # Time spent waiting for a server that did not answer does not count as work.
                began = time.monotonic()
            # Scanning thousands of nodes takes long: at most a tenth of a recorder's time.
            await asyncio.sleep(max(UPKEEP_PERIOD_S, 10 * (time.monotonic() - began)))

    async def _sweep(self, retention: RetentionUpkeep) -> None:
        while True:
            beat()
            try:
                # What accumulated over months is deleted in many small steps; afterwards, once a minute
                # is enough.
                soon = bool(await retention.sweep(utc_now(), self._busy))
                self._health.report("retention", ok=True)
            except DATABASE_ERRORS as error:
                soon = True
                self._health.report("retention", ok=False, reason=f"{type(error).__name__}: {error}")
            await asyncio.sleep(UPKEEP_PERIOD_S if soon else SWEEP_PERIOD_S)

    async def _describe_nodes(self, fleet: FleetStore, js: JetStreamContext) -> None:
        """Write inventories that are newer than the stored ones."""
        found = (await bucket_items(js, "inventory", NodeInventory)).values()
        news = [i for i in found if self._described.get(i.node) != i.at]
        await fleet.write_inventories(news)
        self._described |= {i.node: i.at for i in news}

    async def _roll_up(self, rollups: RollupUpkeep) -> None:
        while True:
            beat()
            try:
                await rollups.turn(self._busy)
                if not self._busy():
                    await rollups.jobs()
                self._health.report("rollups", ok=True)
            except DATABASE_ERRORS as error:
                reason = f"failed: {type(error).__name__}: {error}"
                self._health.report("rollups", ok=False, reason=reason)
                log.warning("rollup failed", extra={"error": reason})
            await asyncio.sleep(UPKEEP_PERIOD_S)

    def _busy(self) -> bool:
        """Pending frames come first: rollups can be made later, but the stream drops frames by age."""
        beat()
        return self.frames.backlog > 2 * self._settings.frame_batch

    async def _recount(self, fleet: FleetStore, js: JetStreamContext) -> None:
        """Frames that the previous recorder wrote but did not count must not look like a gap."""
        while True:
            beat()
            try:
                since = await fleet.last_counted()
                if since is not None:
                    noted = await recount(js, FRAMES.stream, DURABLE, since, self.frames.tally)
                    log.info("frames recounted", extra={"since": since.isoformat(), "frames": noted})
            except (*DATABASE_ERRORS, *BUS_ERRORS) as error:
                log.info("frames not recounted yet", extra={"error": type(error).__name__})
                await asyncio.sleep(1.0)
            else:
                return

    async def _count_frames(self, fleet: FleetStore, js: JetStreamContext) -> None:
        before: dict[str, int] = {}
        await self._write_factors(fleet)
        await self._recount(fleet, js)
        while True:
            beat()
            runs, totals, self.frames.totals = self.frames.tally.drain(), self.frames.totals, Totals()
            try:
                await fleet.write_runs(runs)
                await fleet.write_pipeline(self._name, totals, self.frames.backlog, COUNT_PERIOD_S)
                now = await fleet.missing_frames()
            except DATABASE_ERRORS:
                self.frames.tally.give_back(runs)
            else:
                # What another recorder has not counted yet is missing in only one count.
                self._log_missing({node: min(n, before.get(node, 0)) for node, n in now.items()})
                before = now
            await asyncio.sleep(COUNT_PERIOD_S)

    async def _count_queue(self, storage: RecorderStorage, js: JetStreamContext) -> None:
        while True:
            beat()
            try:
                await storage.write_queue(js)
            except (*DATABASE_ERRORS, *BUS_ERRORS) as error:
                log.info("queue not counted", extra={"error": type(error).__name__})
            await asyncio.sleep(COUNT_PERIOD_S)

    async def _write_factors(self, fleet: FleetStore) -> None:
        settings = self._settings
        factors = {"price_per_kwh": settings.price_per_kwh, "co2_g_per_kwh": settings.co2_g_per_kwh}
        while True:
            beat()
            try:
                await fleet.write_factors(factors)
            except DATABASE_ERRORS:
                await asyncio.sleep(1.0)
            else:
                return

    def _log_missing(self, missing: dict[str, int]) -> None:
        self._missing.set(sum(missing.values()))
        for node, count in missing.items():
            if count > self._missing_before.get(node, 0):
                log.warning("frames missing", extra={"node": node, "missing": count})
        self._missing_before = missing

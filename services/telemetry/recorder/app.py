"""The recorder app: writes every stream to the database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import asyncpg
from faststream import FastStream

from accelerator_autopilot.runtime.health import HealthState
from accelerator_autopilot.runtime.service import Service
from accelerator_autopilot.runtime.settings import load
from accelerator_autopilot.telemetry.device_metrics.export import start_device_export
from accelerator_autopilot.telemetry.device_metrics.latest_samples import LatestSamples
from accelerator_autopilot.telemetry.recorder.adapters.database_probe import DatabaseProbe
from accelerator_autopilot.telemetry.recorder.adapters.fleet_rows import FleetRows
from accelerator_autopilot.telemetry.recorder.adapters.partitions import Partitions
from accelerator_autopilot.telemetry.recorder.adapters.queue_rows import write_queue
from accelerator_autopilot.telemetry.recorder.adapters.record_rows import TABLES
from accelerator_autopilot.telemetry.recorder.adapters.record_store import PostgresRecordStore
from accelerator_autopilot.telemetry.recorder.adapters.retention import PARTITIONED, Retention
from accelerator_autopilot.telemetry.recorder.adapters.retention import TABLES as TABLES_KEPT
from accelerator_autopilot.telemetry.recorder.adapters.rollups import Rollups
from accelerator_autopilot.telemetry.recorder.adapters.sample_store import PostgresFrameStore
from accelerator_autopilot.telemetry.recorder.application.recorder import Recorder
from accelerator_autopilot.telemetry.recorder.ports import RecorderStorage
from accelerator_autopilot.telemetry.settings import RecorderSettings


def create_recorder(settings: RecorderSettings | None = None) -> FastStream:
    """Create the recorder app, which writes every stream to the database."""
    settings = settings or load(RecorderSettings)
    service = Service("recorder", settings)
    # Scraping agents and recorder together must not yield each device twice.
    latest = start_device_export(service, settings) if settings.recorder_device_metrics else LatestSamples(0)
    recorder = Recorder(settings, service, latest, TABLES, partial(make_storage, settings, service.health))

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        async with service.running(recorder.watched) as js:
            service.supervise("recorder", lambda: recorder.run(js))
            yield

    return service.app(lifespan)


def make_storage(settings: RecorderSettings, health: HealthState, pool: asyncpg.Pool[Any]) -> RecorderStorage:
    """Create the recorder's storage on this pool; the probe has its own connection."""
    return RecorderStorage(
        frames=partial(PostgresFrameStore, pool),
        records=PostgresRecordStore(pool),
        fleet=FleetRows(pool),
        partitions=Partitions(
            pool,
            hours=settings.partition_hours,
            retention_days={table: getattr(settings, name) for table, name in PARTITIONED.items()},
        ),
        retention=Retention(pool, {kept.setting: getattr(settings, kept.setting) for kept in TABLES_KEPT}),
        rollups=Rollups(pool),
        write_queue=partial(write_queue, pool),
        probe=DatabaseProbe(settings.database_url.get_secret_value(), health).run,
    )

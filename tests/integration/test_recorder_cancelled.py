"""A recorder that is told to end while its database stands still ends at once, and loses nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from nats.aio.client import Client
from prometheus_client import CollectorRegistry

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.messages.audit import AuditRecord
from accelerator_autopilot.contracts.streams import durable
from accelerator_autopilot.runtime.database import connect_pool, wait_until_migrated
from accelerator_autopilot.runtime.health import HealthState
from accelerator_autopilot.runtime.poison_messages import PoisonRule
from accelerator_autopilot.telemetry.device_metrics.latest_samples import LatestSamples
from accelerator_autopilot.telemetry.recorder.adapters.record_rows import TABLES
from accelerator_autopilot.telemetry.recorder.adapters.record_store import PostgresRecordStore
from accelerator_autopilot.telemetry.recorder.adapters.sample_store import PostgresFrameStore
from accelerator_autopilot.telemetry.recorder.application.database_writer import DatabaseWriter
from accelerator_autopilot.telemetry.recorder.application.frame_writer import DURABLE, FRAMES, FrameWriter
from accelerator_autopilot.telemetry.recorder.application.record_writer import RecordWriter
from accelerator_autopilot.transport.clock import utc_now
from tests.chaos.soak.proxy import LinkProxy
from tests.conftest import NatsServer
from tests.integration.test_recorder_database import proxied, publish, recording
from tests.support.product import query
from tests.support.waiting import eventually

pytestmark = [pytest.mark.nats, pytest.mark.db, pytest.mark.timeout(120)]

AT_ONCE_S = 3.0
AUDIT = next(table for table in TABLES if table.stream == "AUDIT")


@asynccontextmanager
async def database(url: str) -> AsyncIterator[tuple[LinkProxy, asyncpg.Pool[Any]]]:
    """A pool of connections, whose statements may take long, over a link that can stand still."""
    await wait_until_migrated(url)
    async with proxied(url) as (link, through):
        pool = await connect_pool(through, size=4, timeout_s=60)
        try:
            yield link, pool
        finally:
            pool.terminate()


async def ends_at_once(task: asyncio.Task[None]) -> None:
    task.cancel()
    _, pending = await asyncio.wait([task], timeout=AT_ONCE_S)
    assert not pending, "still busy"
    assert task.cancelled()


async def counted(url: str, table: str) -> int:
    return int((await query(url, f"SELECT count(*) AS n FROM {table}"))[0]["n"])


def frame_writer(nc: Client, pool: asyncpg.Pool[Any]) -> Callable[[], Coroutine[Any, Any, None]]:
    registry = CollectorRegistry()
    persister = DatabaseWriter(HealthState("test"), registry)
    poison = PoisonRule(registry, nc.jetstream)
    writer = FrameWriter(persister, poison, registry, LatestSamples(10), batch=20, linger_s=0.01)
    return lambda: writer.run(nc, PostgresFrameStore(pool))


async def test_frames_that_wait_for_the_database_are_given_back_at_once(nc: Client, database_url: str) -> None:
    js = nc.jetstream()
    await js.add_consumer(FRAMES.stream, FRAMES.config)

    async def taken() -> bool:
        return ((await js.consumer_info(FRAMES.stream, DURABLE)).num_ack_pending or 0) > 20

    async with database(database_url) as (link, pool):
        first = asyncio.create_task(frame_writer(nc, pool)())
        await publish(js, 1, 20)

        async def written() -> bool:
            return await counted(database_url, "samples") == 20

        await eventually(written, 20)
        link.set("stalled")
        await publish(js, 21, 100)
        await eventually(taken, 20, "a batch on its way to the database, others waiting")
        await ends_at_once(first)
        link.set("fine")
        second = asyncio.create_task(frame_writer(nc, pool)())

        async def all_written() -> bool:
            return await counted(database_url, "samples") == 120

        # Long before their acknowledgement would be overdue.
        await eventually(all_written, 15)
        await ends_at_once(second)
    assert (await js.consumer_info(FRAMES.stream, DURABLE)).num_pending == 0


async def test_records_that_wait_for_the_database_are_given_back_at_once(nc: Client, database_url: str) -> None:
    js, registry = nc.jetstream(), CollectorRegistry()
    config = durable(AUDIT.durable)
    await js.add_consumer(AUDIT.stream, config)

    async def note(name: str) -> None:
        record = AuditRecord(id=name, actor="anna", action="test", at=utc_now())
        await js.publish(subjects.audit("anna"), record.model_dump_json().encode())

    async with database(database_url) as (link, pool):
        writer = RecordWriter(
            DatabaseWriter(HealthState("test"), registry), PoisonRule(registry, nc.jetstream), registry, batch=50
        )

        def run() -> asyncio.Task[None]:
            return asyncio.create_task(writer.run(nc, js, PostgresRecordStore(pool), AUDIT))

        first = run()
        await note("a")

        async def written(count: int) -> bool:
            return await counted(database_url, "audit") == count

        await eventually(lambda: written(1), 20)
        link.set("stalled")
        await note("b")

        async def taken() -> bool:
            return ((await js.consumer_info(AUDIT.stream, AUDIT.durable)).num_ack_pending or 0) == 1

        await eventually(taken, 20)
        await asyncio.sleep(0.5)
        await ends_at_once(first)
        link.set("fine")
        second = run()
        await eventually(lambda: written(2), 15)
        await ends_at_once(second)


async def test_the_whole_recorder_ends_while_its_database_stands_still(
    nats_server: NatsServer, nc: Client, database_url: str
) -> None:
    loop = asyncio.get_running_loop()
    async with recording(nats_server, database_url, timeout_s=60) as recorder:
        await publish(nc.jetstream(), 1, 20)

        async def written() -> bool:
            try:
                return await recorder.rows() == 20
            except asyncpg.UndefinedTableError:
                return False

        await eventually(written, 30)
        await recorder.stall()
        await publish(nc.jetstream(), 21, 20)
        await asyncio.sleep(2)
        began = loop.time()
    assert loop.time() - began < 8

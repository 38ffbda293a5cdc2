"""Telemetry under faults: the database away, the broker full, restarts, name conflicts, wrong clocks, newer agents."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import asyncpg
import httpx
import msgpack
import numpy as np
import pytest
from nats.aio.client import Client
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.frames import TelemetryFrame, encode
from accelerator_autopilot.contracts.metric_catalogue import NAMES
from accelerator_autopilot.deploy.local.instance import take_port
from accelerator_autopilot.runtime.health import HealthState
from accelerator_autopilot.telemetry.agent.app import create_agent
from accelerator_autopilot.telemetry.recorder.app import create_recorder
from accelerator_autopilot.telemetry.recorder.application.frame_writer import DURABLE, FRAMES
from accelerator_autopilot.telemetry.recorder.application.stream_backlog import StreamBacklog
from accelerator_autopilot.telemetry.settings import AgentSettings, RecorderSettings
from accelerator_autopilot.transport import stream_setup
from accelerator_autopilot.transport.clock import utc_now
from tests.conftest import NatsServer
from tests.support.apps import running
from tests.support.builders import frame
from tests.support.product import query
from tests.support.waiting import eventually

pytestmark = [pytest.mark.chaos, pytest.mark.nats, pytest.mark.db, pytest.mark.timeout(180)]


@asynccontextmanager
async def recording(nats_server: NatsServer, url: SecretStr) -> AsyncIterator[int]:
    """A recorder; yields the port of its metrics."""
    port = take_port(0, "test")
    settings = RecorderSettings(nats_url=nats_server.url, database_url=url, health_port=port)
    async with running(create_recorder(settings)):
        yield port


@asynccontextmanager
async def sampling(nats_server: NatsServer, folder: Path, **more: object) -> AsyncIterator[int]:
    """An agent with one simulated GPU; yields the port of its health."""
    port = take_port(0, "test")
    values = {"nats_url": nats_server.url, "node": "n1", "simulate": 1, "nvml": False, "cpu": "never",
              "other_accelerators": False, "kernel_log": False, "data_dir": folder, "health_port": port,
              "period_s": 0.1, "inventory_period_s": 1.0} | more  # fmt: skip
    async with running(create_agent(AgentSettings.model_validate(values))):
        yield port


async def metric(port: int, name: str) -> float:
    async with httpx.AsyncClient(trust_env=False) as http:
        text = (await http.get(f"http://127.0.0.1:{port}/metrics")).text
    return next((float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(f"{name} ")), 0.0)


async def problems(port: int) -> dict[str, str]:
    async with httpx.AsyncClient(trust_env=False) as http:
        return (await http.get(f"http://127.0.0.1:{port}/readyz")).json()["problems"]


async def count(url: str) -> int:
    try:
        return int((await query(url, "SELECT count(*) AS n FROM samples"))[0]["n"])
    except asyncpg.PostgresError:
        return -1


async def test_a_database_outage_under_load_loses_nothing_and_is_caught_up(
    nats_server: NatsServer, nc: Client, database_url: str, secret_url: SecretStr
) -> None:
    """20,000 device ticks a second for ten seconds; the benchmark `outage` does the same for ten minutes."""
    nodes, devices, outage_s = 2500, 8, 10
    loop, js = asyncio.get_running_loop(), nc.jetstream(publish_async_max_pending=4000)
    values = np.ones((1, devices, 24), np.float32)
    names = tuple(f"g{i}" for i in range(devices))
    began = utc_now()

    async def publish(tick: int) -> None:
        start_us = int((began + timedelta(seconds=tick)).timestamp() * 1e6)
        futures = []
        for node in range(nodes):
            made = TelemetryFrame(f"n{node}", start_us, 1.0, names, NAMES[:24], values, tick + 1, 1)
            futures.append(await js.publish_async(subjects.frames(made.node), encode(made)))
        await asyncio.wait_for(asyncio.gather(*futures), 30)

    name = database_url.partition("?")[0].rsplit("/", 1)[1]
    admin = await asyncpg.connect(database_url.replace(name, "postgres", 1))
    async with recording(nats_server, secret_url) as port:
        await publish(0)

        async def first() -> bool:
            return await count(database_url) == nodes * devices

        await eventually(first, 30)
        await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
        away = loop.time()
        for tick in range(1, outage_s + 1):
            await publish(tick)
            await asyncio.sleep(max(0.0, away + tick - loop.time()))
        assert "database" in await problems(port)
        outage = loop.time() - away
        await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        back = loop.time()
        wanted = nodes * devices * (outage_s + 1)

        async def caught_up() -> bool:
            return await count(database_url) == wanted

        await eventually(caught_up, 2 * outage)
        print(f"caught up {loop.time() - back:.1f} s after an outage of {outage:.1f} s")
    await admin.close()


async def test_a_full_broker_is_told_and_recovers_by_itself(
    nats_server: NatsServer, nc: Client, tmp_path: Path
) -> None:
    js = nc.jetstream()
    config = (await js.stream_info("TELEMETRY")).config
    async with sampling(nats_server, tmp_path, frame_buffer=20) as port:
        await eventually(lambda: js.stream_info("TELEMETRY"), 5)
        # A stream that takes nothing more: what a full disk answers to every publisher.
        await js.update_stream(replace(config, max_msgs=1, discard="new"))

        async def told() -> bool:
            return "publishing" in await problems(port)

        await eventually(told, 10)
        await js.update_stream(replace(config, max_msgs=-1))

        async def fine() -> bool:
            return not await problems(port)

        await eventually(fine, 10)
        before = (await js.stream_info("TELEMETRY")).state.messages

        async def flows() -> bool:
            return (await js.stream_info("TELEMETRY")).state.messages > before + 10

        await eventually(flows, 10)


async def test_an_agent_that_restarts_again_and_again_leaves_no_gap_and_no_conflict(
    nats_server: NatsServer, nc: Client, database_url: str, secret_url: SecretStr, tmp_path: Path
) -> None:
    async with recording(nats_server, secret_url):
        for run in range(1, 4):
            async with sampling(nats_server, tmp_path) as port:

                async def wrote(run: int = run) -> bool:
                    with suppress(asyncpg.PostgresError):
                        rows = await query(database_url, "SELECT count(DISTINCT epoch_us) AS n FROM frame_runs")
                        return int(rows[0]["n"]) >= run
                    return False

                await eventually(wrote, 30)
                assert "node name" not in await problems(port)
        assert await query(database_url, "SELECT * FROM frame_gaps") == []
        assert len(await query(database_url, "SELECT * FROM devices")) == 1


async def test_two_agents_of_one_name_are_told_and_rows_stay_single(
    nats_server: NatsServer, nc: Client, database_url: str, secret_url: SecretStr, tmp_path: Path
) -> None:
    async with (
        recording(nats_server, secret_url),
        sampling(nats_server, tmp_path / "a") as one,
        sampling(nats_server, tmp_path / "b") as two,
    ):

        async def told() -> bool:
            return any(["node name" in await problems(port) for port in (one, two)])

        async def rows() -> bool:
            return await count(database_url) > 0

        await eventually(told, 40)
        await eventually(rows, 20)
        doubles = await query(
            database_url, "SELECT device_id, ts FROM samples GROUP BY device_id, ts HAVING count(*) > 1"
        )
        assert doubles == []


async def test_a_wrong_clock_is_told_and_its_rows_are_kept(
    nats_server: NatsServer, nc: Client, database_url: str, secret_url: SecretStr
) -> None:
    js = nc.jetstream()
    async with recording(nats_server, secret_url) as port:
        ahead = utc_now() + timedelta(hours=1)
        await js.publish(subjects.frames("off"), encode(frame(node="off", start=ahead)))
        await js.publish(subjects.frames("right"), encode(frame(node="right", start=utc_now())))

        async def both() -> bool:
            return await count(database_url) == 2

        await eventually(both, 30)

        async def told() -> bool:
            return await metric(port, "autopilot_nodes_clock_skewed") == 1

        await eventually(told, 5)
        assert await metric(port, "autopilot_frame_age_seconds_count") == 1


async def test_frames_of_a_newer_schema_are_read_as_far_as_they_are_known(
    nats_server: NatsServer, nc: Client, database_url: str, secret_url: SecretStr
) -> None:
    body = msgpack.unpackb(encode(frame(metrics=("power_w", "metric_of_tomorrow"), start=utc_now(), value=5.0)))
    body |= {"v": 9, "something": {"new": True}}
    async with recording(nats_server, secret_url) as port:
        await nc.jetstream().publish(subjects.frames("n1"), msgpack.packb(body))

        async def written() -> bool:
            return await count(database_url) == 1

        await eventually(written, 30)
        assert (await query(database_url, "SELECT power_w FROM samples"))[0]["power_w"] == 5.0
        assert await metric(port, "autopilot_frames_newer_schema_total") == 1


async def test_the_stream_says_so_before_it_drops_frames_and_counts_what_it_dropped(
    nats_server: NatsServer, nc: Client
) -> None:
    js = nc.jetstream()
    registry = CollectorRegistry()
    health = HealthState("recorder")
    headroom = StreamBacklog("TELEMETRY", DURABLE, health, registry)
    await stream_setup.ensure_consumer(js, "TELEMETRY", FRAMES.config)
    subscription = await js.pull_subscribe_bind(DURABLE, stream="TELEMETRY")
    config = (await js.stream_info("TELEMETRY")).config
    body = b"x" * 1000
    for _ in range(10):
        await js.publish(subjects.frames("n1"), body)
    for message in await subscription.fetch(1):
        await message.ack_sync()
    assert await headroom.check(js, utc_now()) < 0.8
    assert "stream headroom" not in health.ready()[1]
    await js.update_stream(replace(config, max_bytes=11_000))
    assert await headroom.check(js, utc_now()) > 0.8
    assert "stream headroom" in health.ready()[1]
    for _ in range(10):
        await js.publish(subjects.frames("n1"), body)
    await headroom.check(js, utc_now())
    dropped = registry.get_sample_value("autopilot_frames_dropped_unwritten_total")
    first = (await js.stream_info("TELEMETRY")).state.first_seq
    assert dropped == first - 2 > 0
    await subscription.unsubscribe()

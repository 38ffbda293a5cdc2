"""What one process at a time has to do: making streams, above all."""

from __future__ import annotations

import asyncio

import nats
import pytest
from nats.js import JetStreamContext
from nats.js.api import KeyValueConfig

from accelerator_autopilot.transport import stream_setup
from accelerator_autopilot.transport.distributed_lock import turn
from tests.conftest import NatsServer

pytestmark = [pytest.mark.nats, pytest.mark.timeout(60)]

SHORT = KeyValueConfig(bucket="turns", ttl=1.0)


class Inside:
    """How many are at it, and how many were at the most."""

    def __init__(self) -> None:
        self.now = self.most = self.times = 0

    async def work(self) -> None:
        self.now += 1
        self.most, self.times = max(self.most, self.now), self.times + 1
        await asyncio.sleep(0.02)
        self.now -= 1


async def test_one_at_a_time_and_whoever_dies_in_it_is_not_waited_for(nats_server: NatsServer) -> None:
    connection = await nats.connect(nats_server.url)
    js, inside = connection.jetstream(), Inside()

    async def take() -> None:
        async with turn(js, SHORT, "it"):
            await inside.work()

    await asyncio.gather(*(take() for _ in range(8)))
    assert (inside.most, inside.times) == (1, 8)
    await (await js.key_value("turns")).create("it", b"a process that was killed")
    async with asyncio.timeout(10):
        await take()
    await connection.close()


async def test_services_that_start_together_make_streams_one_after_the_other(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two that set room aside at once can set aside more than there is, after which the server refuses every change.
    connection = await nats.connect(nats_server.url)
    inside = Inside()
    make = stream_setup._ensure_all

    async def watched(js: JetStreamContext, *more: object) -> None:
        await inside.work()
        await make(js, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(stream_setup, "_ensure_all", watched)
    await asyncio.gather(*(stream_setup.ensure(connection.jetstream()) for _ in range(4)))
    assert (inside.most, inside.times) == (1, 4)
    assert {"TELEMETRY", "JOBS", "RESULTS"} <= {
        info.config.name for info in await connection.jetstream().streams_info()
    }
    await connection.close()

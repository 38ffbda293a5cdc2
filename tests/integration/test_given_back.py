"""What a consumer has fetched and not dealt with when it ends comes again at once, and not when it is overdue."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest
from faststream.nats import JStream, NatsBroker, NatsMessage, PullSub
from nats.aio.client import Client
from nats.errors import Error
from nats.js.api import ConsumerConfig
from prometheus_client import CollectorRegistry

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.streams import durable
from accelerator_autopilot.runtime.broker import client_of, make_broker
from accelerator_autopilot.runtime.consumers import pull_batches
from accelerator_autopilot.runtime.settings import ServiceSettings
from accelerator_autopilot.transport.connection import can_come_back, keep_trying
from tests.conftest import NatsServer
from tests.support.waiting import eventually

pytestmark = [pytest.mark.nats, pytest.mark.timeout(60)]

NAME = "test-outcomes"
CONFIG = durable(NAME, subjects.OUTCOMES, ack_wait_s=30.0)


@pytest.fixture(autouse=True)
def brokers_may_close(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that closes unasked ends its process."""
    monkeypatch.setattr("accelerator_autopilot.runtime.broker.stopping", True)


async def comes_again(nc: Client, count: int) -> list[bytes]:
    """So many messages, long before the acknowledgement of any is overdue."""
    subscription = await nc.jetstream().pull_subscribe_bind(NAME, stream="OUTCOMES")
    found: list[bytes] = []
    async with asyncio.timeout(8):
        while len(found) < count:
            for message in await subscription.fetch(count, timeout=5):
                found.append(message.data)
                await message.ack()
    return sorted(found)


def consuming(url: str, batch: int = 1) -> tuple[NatsBroker, list[bytes], asyncio.Event]:
    """A broker whose handler stands still with the first message."""
    broker = make_broker(ServiceSettings(nats_url=url), "test", CollectorRegistry())
    begun: list[bytes] = []
    go_on = asyncio.Event()

    async def take(message: NatsMessage) -> None:
        begun.append(message.body)
        await go_on.wait()

    broker.subscriber(
        subjects.OUTCOMES, stream=JStream("OUTCOMES", declare=False), durable=NAME, config=CONFIG,
        pull_sub=PullSub(batch_size=batch, timeout=5), no_reply=True,
    )(take)  # fmt: skip
    return broker, begun, go_on


async def published(nc: Client, count: int, config: ConsumerConfig = CONFIG) -> None:
    js = nc.jetstream()
    await js.add_consumer("OUTCOMES", config)
    for number in range(count):
        await js.publish(f"outcomes.{number}", str(number).encode())


async def test_a_handler_that_is_cancelled_gives_its_message_back(nc: Client, nats_server: NatsServer) -> None:
    await published(nc, 1)
    broker, begun, _ = consuming(nats_server.url)
    await broker.start()
    await eventually(lambda: begun, 10)
    subscriber: Any = broker.subscribers[0]
    for task in subscriber.tasks:
        task.cancel()
    assert await comes_again(nc, 1) == [b"0"]
    await broker.stop()


async def test_what_a_stopped_subscriber_has_not_begun_is_given_back(nc: Client, nats_server: NatsServer) -> None:
    await published(nc, 5)
    broker, begun, go_on = consuming(nats_server.url)
    await broker.start()
    await eventually(lambda: begun, 10)
    subscriber: Any = broker.subscribers[0]
    # One more is in its hands, and others have come that it never fetched.
    one = await nc.jetstream().pull_subscribe_bind(NAME, stream="OUTCOMES")
    (fetched,) = await one.fetch(1, timeout=5)
    waiting = subscriber.subscription._sub._pending_queue
    for message in await one.fetch(3, timeout=5):
        waiting.put_nowait(message)
    subscriber.running = False
    await subscriber.consume(fetched)
    subscriber.running = True
    go_on.set()
    await subscriber.stop()
    assert await comes_again(nc, 4) == [b"1", b"2", b"3", b"4"]
    assert begun == [b"0"]
    await broker.stop()


async def test_a_loop_that_ends_gives_back_what_it_holds_and_does_not_hold_up_the_drain(nc: Client) -> None:
    await published(nc, 6)
    async with aclosing(pull_batches(nc.jetstream(), "OUTCOMES", NAME, batch=6)) as batches:
        async for batch in batches:
            await batch[0].ack()
            break
    assert await comes_again(nc, 5) == [b"1", b"2", b"3", b"4", b"5"]
    async with asyncio.timeout(3):
        await nc.drain()


async def test_while_the_server_is_away_no_requests_pile_up(
    nc: Client, nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await published(nc, 0)
    asked: list[str] = []
    publish = nc.publish

    async def noted(subject: str, payload: bytes = b"", reply: str = "", **more: Any) -> None:
        if subject.startswith("$JS.API.CONSUMER.MSG.NEXT"):
            asked.append(subject)
        await publish(subject, payload, reply, **more)

    monkeypatch.setattr(nc, "publish", noted)
    got: list[bytes] = []

    async def work() -> None:
        async with aclosing(pull_batches(nc.jetstream(), "OUTCOMES", NAME, batch=10, wait_s=0.2)) as batches:
            async for batch in batches:
                got.extend(message.data for message in batch)

    task = asyncio.create_task(work())
    try:
        await eventually(lambda: asked, 10)
        nats_server.kill()
        await eventually(lambda: not nc.is_connected, 10)
        before = len(asked)
        await asyncio.sleep(1.5)
        assert len(asked) <= before + 1
        await nats_server.start()
        await eventually(lambda: nc.is_connected, 20)
        await nc.jetstream().publish("outcomes.late", b"late")
        await eventually(lambda: got == [b"late"], 20)
    finally:
        task.cancel()


async def test_a_refusal_that_passes_does_not_end_reconnecting(nc: Client, nats_server: NatsServer) -> None:
    """FastStream's callback raises it into the task that reconnects, which would end without a word."""
    broker, _, _ = consuming(nats_server.url)
    await broker.connect()
    client: Any = client_of(broker)
    keep_trying(client)
    refused = client._process_connect_init
    refusals = 0

    async def refuse_twice() -> None:
        nonlocal refusals
        refusals += 1
        if refusals <= 2:
            raise Error("nats: 'Authorization Violation'")
        await refused()

    client._process_connect_init = refuse_twice
    nats_server.kill()
    await eventually(lambda: not client.is_connected, 10)
    await nats_server.start()
    await eventually(lambda: client.is_connected, 20)
    assert refusals > 2
    assert can_come_back(client)
    client._reconnection_task.cancel()
    nats_server.kill()
    await eventually(lambda: not client.is_connected, 10)
    client._reconnection_task.cancel()
    await eventually(lambda: not can_come_back(client), 10, "whoever looks is told that nothing tries any more")

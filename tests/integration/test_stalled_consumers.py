"""A subscription that ended or takes nothing is told and started anew; where that does not help the process ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from faststream import FastStream
from faststream.nats import JStream, NatsMessage, PullSub
from nats.aio.client import Client
from nats.js import JetStreamContext

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.streams import durable
from accelerator_autopilot.runtime import stalled_consumers
from accelerator_autopilot.runtime.consumers import Watched
from accelerator_autopilot.runtime.service import Service
from accelerator_autopilot.runtime.settings import ServiceSettings
from tests.conftest import NatsServer
from tests.support.apps import running
from tests.support.waiting import eventually

pytestmark = [pytest.mark.nats, pytest.mark.timeout(60)]

NAME = "test-outcomes"


class Consuming:
    """A service with one handler."""

    def __init__(self, url: str) -> None:
        self.service = Service("test", ServiceSettings(nats_url=url))
        self.taken: list[bytes] = []
        self.stuck, self.called = False, 0
        self._config = durable(NAME, subjects.OUTCOMES, ack_wait_s=2.0)
        self.service.broker.subscriber(
            subjects.OUTCOMES, stream=JStream("OUTCOMES", declare=False), durable=NAME, config=self._config,
            pull_sub=PullSub(batch_size=1, timeout=0.5), no_reply=True,
        )(self.take)  # fmt: skip

    async def take(self, message: NatsMessage) -> None:
        self.called += 1
        if self.stuck:
            await asyncio.Event().wait()
        self.taken.append(message.body)

    def app(self) -> FastStream:
        @asynccontextmanager
        async def lifespan() -> AsyncIterator[None]:
            async with self.service.running([Watched("OUTCOMES", self._config)]):
                yield

        return self.service.app(lifespan)

    @property
    def subscription(self) -> Any:
        return self.service.broker.subscribers[0]

    def restarts(self) -> float:
        found = self.service.registry.get_sample_value("autopilot_subscription_restarts_total", {"name": NAME})
        return found or 0.0

    def stalled(self) -> bool:
        problem = self.service.health.ready()[1].get(f"consumer OUTCOMES/{NAME}", "")
        return "took nothing" in problem


@pytest.fixture
async def consuming(nats_server: NatsServer, nc: Client, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Consuming]:
    monkeypatch.setattr(stalled_consumers, "STALLED_S", 3.0)
    monkeypatch.setattr(stalled_consumers, "STALLED_IN_HAND_S", 5.0)
    made = Consuming(nats_server.url)
    async with running(made.app()):
        yield made


async def test_an_ended_subscription_is_started_anew(consuming: Consuming, nc: Client) -> None:
    for task in consuming.subscription.tasks:
        task.cancel()
    await nc.jetstream().publish("outcomes.c1", b"1")
    await eventually(lambda: consuming.taken == [b"1"], 10)
    assert consuming.restarts() == 1
    await eventually(lambda: consuming.service.health.ready()[0], 5)


async def test_a_subscription_that_takes_nothing_is_told_and_started_anew(
    consuming: Consuming, nc: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stuck(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    with monkeypatch.context() as patched:
        patched.setattr(consuming.subscription.subscription, "fetch", stuck)
        # The fetch that stands already takes one more.
        await asyncio.sleep(0.6)
        await nc.jetstream().publish("outcomes.c1", b"1")
        await eventually(consuming.stalled, 10)
    await eventually(lambda: consuming.taken == [b"1"], 15)
    assert consuming.restarts() == 1
    await eventually(lambda: not consuming.stalled(), 5)


async def test_a_handler_that_never_ends_is_cut_off_and_its_message_comes_again(
    consuming: Consuming, nc: Client
) -> None:
    consuming.stuck = True
    await nc.jetstream().publish("outcomes.c1", b"1")
    await eventually(lambda: consuming.called == 1, 5)
    consuming.stuck = False
    await eventually(consuming.stalled, 15)
    await eventually(lambda: consuming.taken == [b"1"], 20)
    await eventually(lambda: not consuming.stalled(), 5)


async def test_where_a_new_subscription_does_not_help_the_process_ends(
    consuming: Consuming, nc: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stuck(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    ended: list[str] = []
    monkeypatch.setattr(stalled_consumers, "end_stuck", ended.append)
    monkeypatch.setattr(JetStreamContext.PullSubscription, "fetch", stuck)
    # The fetch that stands already takes one more.
    await asyncio.sleep(0.6)
    await nc.jetstream().publish("outcomes.c1", b"1")
    await eventually(lambda: ended, 20)
    assert NAME in ended[0]

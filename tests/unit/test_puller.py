"""Standing pull requests: how many, and when they are taken for dead."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from nats.aio.msg import Msg

from accelerator_autopilot.runtime.pull_subscription import GRACE_S, PullSubscription


class FakeClient:
    """Keeps what is asked for."""

    def __init__(self) -> None:
        self.stats, self.asked, self.is_connected, self.answers = {"reconnects": 0}, [], True, True

    def new_inbox(self) -> str:
        return "inbox"

    async def publish(self, subject: str, body: bytes, reply: str) -> None:
        assert (subject, reply) == ("$JS.API.CONSUMER.MSG.NEXT.S.d", "inbox")
        self.asked.append(json.loads(body))

    async def request(self, subject: str, body: bytes, timeout: float) -> None:
        assert subject == "$JS.API.CONSUMER.INFO.S.d"
        if not self.answers:
            raise TimeoutError


def puller(client: FakeClient, **more: Any) -> PullSubscription:
    return PullSubscription(client, "S", "d", asyncio.Event(), **more)  # type: ignore[arg-type]


async def test_what_stands_is_not_asked_for_again_until_half_is_used_up() -> None:
    client = FakeClient()
    its = puller(client, expires_s=30.0)
    assert await its.ask(8)
    assert not await its.ask(8)
    assert client.asked == [{"batch": 8, "expires": 30_000_000_000}]
    for _ in range(4):
        await its._on_message(Msg(_client=None, data=b"x", reply="$JS.ACK.S.d.1.1.1.1.0"))  # type: ignore[arg-type]
    its.ready.clear()
    assert await its.ask(8)
    assert client.asked[-1]["batch"] == 4


async def test_requests_die_with_the_connection() -> None:
    client = FakeClient()
    its = puller(client, expires_s=30.0)
    await its.ask(8)
    client.stats["reconnects"] = 1
    assert await its.ask(8), "at once, not when they would have expired"
    assert [a["batch"] for a in client.asked] == [8, 8]


async def test_nothing_is_asked_for_while_nobody_hears_it() -> None:
    """The client would send it all at once later, and the server answer each request."""
    client = FakeClient()
    its = puller(client)
    client.is_connected = False
    assert not await its.ask(8)
    client.is_connected, client.stats["reconnects"] = True, 1
    assert await its.ask(8)
    client.answers = False
    its._asked_at -= its._expires_s + GRACE_S + 0.1
    for _ in range(3):
        assert not await its.ask(8), "a server that stands still has kept the first"
    client.answers = True
    assert await its.ask(8)
    assert [a["batch"] for a in client.asked] == [8, 8]


async def test_a_consumer_that_is_gone_is_told_and_one_that_answers_is_there() -> None:
    its = puller(FakeClient())
    gone = Msg(_client=None, headers={"Status": "409", "Description": "Consumer Deleted"})  # type: ignore[arg-type]
    await its._on_message(gone)
    assert its.missing
    await its._on_message(Msg(_client=None, data=b"x", reply="$JS.ACK.S.d.1.1.1.1.0"))  # type: ignore[arg-type]
    assert not its.missing


@pytest.mark.parametrize("connected", [True, False])
async def test_what_was_on_its_way_is_given_back(connected: bool) -> None:
    class Inbox:
        async def drain(self) -> None:
            await its._on_message(Msg(_client=None, data=b"late", reply="$JS.ACK.S.d.1.1.1.1.0"))  # type: ignore[arg-type]

        async def unsubscribe(self) -> None:
            assert not connected

    client = FakeClient()
    client.is_connected = connected
    its = puller(client)
    its._subscription = Inbox()  # type: ignore[assignment]
    assert [m.data for m in await its.stop()] == ([b"late"] if connected else [])
    assert not its.ready


async def test_what_somebody_else_writes_into_the_inbox_is_no_message_of_the_stream() -> None:
    its = puller(FakeClient())
    await its._on_message(Msg(_client=None, data=b"x", reply="elsewhere"))  # type: ignore[arg-type]
    assert not its.ready

"""Many messages on their way to streams at once: each is confirmed, refused or given up, none waits for another."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress

import nats
import nats.errors
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import PubAck
from nats.js.errors import APIError, NoStreamResponseError

from accelerator_autopilot.contracts.errors import UnavailableError
from accelerator_autopilot.contracts.ids import new_id
from accelerator_autopilot.contracts.messages.commands import BatchCommand, FleetPolicy
from accelerator_autopilot.runtime.bus import Bus
from accelerator_autopilot.transport import stream_setup
from accelerator_autopilot.transport.acked_publishing import AckedPublisher
from accelerator_autopilot.transport.clock import utc_now
from accelerator_autopilot.transport.wire_protocol import read_fast
from tests.conftest import NatsServer
from tests.support.waiting import eventually

pytestmark = [pytest.mark.nats, pytest.mark.timeout(60)]


@pytest.fixture(params=[False, True], ids=["as the scheduler reads", "as a worker reads"])
def connected(nc: Client, request: pytest.FixtureRequest) -> Client:
    """A connection that reads with nats-py's parser, or with our fast one."""
    if request.param:
        read_fast(nc)
    return nc


async def test_what_is_confirmed_is_stored_once_under_its_id(connected: Client) -> None:
    publisher, js = AckedPublisher(connected), connected.jetstream()
    before = (await js.stream_info("COMMANDS")).state.messages
    sent = [publisher.publish(f"commands.scale.p{i}", b"{}", headers={"Nats-Msg-Id": f"id-{i}"}) for i in range(500)]
    told = await asyncio.gather(*sent)
    assert {each.stream for each in told} == {"COMMANDS"}
    assert len({each.seq for each in told}) == 500, "each has the confirmation of its own message"
    again = await publisher.publish("commands.scale.p7", b"{}", headers={"Nats-Msg-Id": "id-7"}, stream="COMMANDS")
    assert (again.seq, again.duplicate) == (told[7].seq, True)
    assert (await js.stream_info("COMMANDS")).state.messages == before + 500


async def test_each_refusal_is_of_its_own_message(connected: Client) -> None:
    nc, publisher = connected, AckedPublisher(connected, timeout_s=0.5)

    async def mute(_: Msg) -> None: ...

    async def babble(message: Msg) -> None:
        await message.respond(b"{{")

    async def hold_back(message: Msg) -> None:
        await message.respond(json.dumps({"error": {"code": 503, "err_code": 10077, "description": "full"}}).encode())

    for subject, answer in (("test.mute", mute), ("test.babble", babble), ("test.full", hold_back)):
        await nc.subscribe(subject, cb=answer)
    subjects = ["commands.scale.p", "test.mute", "test.babble", "test.full", "test.nobody", "commands.scale.q"]
    told = await asyncio.gather(
        *(publisher.publish(each, b"{}", headers={"Nats-Msg-Id": each}) for each in subjects),
        return_exceptions=True,
    )
    assert [type(each) for each in told[:3]] == [PubAck, nats.errors.TimeoutError, nats.errors.Error]
    assert isinstance(told[3], APIError)
    assert told[3].err_code == 10077
    assert [type(each) for each in told[4:]] == [NoStreamResponseError, PubAck]
    wrong = publisher.publish("commands.scale.p", b"{}", headers={"Nats-Msg-Id": "x"}, stream="ALERTS")
    with pytest.raises(APIError):
        await wrong
    with pytest.raises(nats.errors.TimeoutError):
        async with asyncio.timeout(3):
            await AckedPublisher(nc, timeout_s=30.0).publish("test.mute", b"{}", timeout=0.05)


async def test_it_is_a_context_for_all_else(connected: Client) -> None:
    js = AckedPublisher(connected)
    cancelled = asyncio.create_task(js.publish("commands.scale.p", b"{}"))
    await asyncio.sleep(0)
    cancelled.cancel()
    bucket = await js.key_value("jobs")
    revision = await bucket.put("k", b"1")
    assert (await bucket.get("k")).revision == revision
    message = await js.publish("$KV.jobs.t", b"{}", msg_ttl=60.0)
    stored = await js.get_msg(message.stream, seq=message.seq)
    assert (stored.headers or {})["Nats-TTL"] == "60"


async def test_a_server_that_stands_still_is_given_up_and_heard_again(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accelerator_autopilot.runtime.bus.TIMEOUT_S", 0.5)
    nc = await nats.connect(nats_server.url)
    await stream_setup.ensure(nc.jetstream())
    try:
        bus, now = Bus(nc.jetstream(), pipelined=True), utc_now()

        def command() -> BatchCommand:
            return BatchCommand(
                id=new_id(), issuer="t", reason="batch_delay", at=now, expires_at=now, pool="p", delay_s=0.1
            )

        async def send() -> None:
            each = command()
            await bus.publish("commands.batch.p", each, each.id)

        await send()
        nats_server.freeze()
        told = await asyncio.gather(*(send() for _ in range(20)), return_exceptions=True)
        assert {type(each) for each in told} == {UnavailableError}
        nats_server.thaw()

        async def heard() -> bool:
            with suppress(UnavailableError):
                await send()
                return True
            return False

        await eventually(heard)
    finally:
        nats_server.thaw()
        await nc.close()


async def test_a_policy_that_says_the_same_is_read_once(nc: Client) -> None:
    bus = Bus(nc.jetstream())
    assert await bus.policy() == FleetPolicy()
    await bus.write("policy", "fleet", FleetPolicy(mode="advise"))
    told = await bus.policy()
    assert told.mode == "advise"
    await bus.write("policy", "fleet", FleetPolicy(mode="advise"))
    assert await bus.policy() is told
    await (await nc.jetstream().key_value("policy")).put("fleet", b"{{")
    assert (await bus.policy()).mode == "observe", "what cannot be understood allows nothing but looking"
    await bus.write("policy", "fleet", FleetPolicy(mode="approve"))
    assert (await bus.policy()).mode == "approve"
    await bus.delete("policy", "fleet")
    assert await bus.policy() == FleetPolicy()

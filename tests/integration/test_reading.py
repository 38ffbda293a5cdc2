"""Listings of streams and buckets: all that was there, at once, and nothing twice."""

from __future__ import annotations

import asyncio
import itertools
import time

import pytest
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from accelerator_autopilot.contracts.messages.audit import AuditRecord
from accelerator_autopilot.contracts.messages.commands import PowerCommand, ScaleCommand
from accelerator_autopilot.contracts.messages.telemetry import NodeInventory
from accelerator_autopilot.transport.clock import utc_now
from accelerator_autopilot.transport.direct_reads import bucket_items, bucket_values, last_messages
from tests.support.builders import device

pytestmark = [pytest.mark.nats, pytest.mark.timeout(60)]


def record(number: int) -> AuditRecord:
    return AuditRecord(id=str(number), actor="x", action="a", at=utc_now())


async def write(js: JetStreamContext, numbers: range) -> None:
    for number in numbers:
        await js.publish("audit.x", record(number).model_dump_json().encode())


async def listed(js: JetStreamContext, limit: int) -> list[int]:
    return [int(r.id) for r in await last_messages(js, "AUDIT", "audit.x", AuditRecord, limit=limit)]


async def test_a_listing_does_not_wait(nc: Client) -> None:
    js = nc.jetstream()
    await write(js, range(20))
    took = []
    for _ in range(5):
        began = time.perf_counter()
        assert await listed(js, 50) == list(range(20))
        took.append(time.perf_counter() - began)
    assert sorted(took)[2] < 0.3
    assert (await js.stream_info("AUDIT")).state.consumer_count == 0


async def test_what_arrives_meanwhile_is_neither_lost_nor_told_twice(nc: Client) -> None:
    js = nc.jetstream()
    await write(js, range(50))
    writing = asyncio.create_task(write(js, range(50, 400)))
    seen: list[list[int]] = []
    while not writing.done():
        seen.append(await listed(js, 1000))
        await asyncio.sleep(0)
    await writing
    for before, after in itertools.pairwise(seen):
        assert after == list(range(len(after)))
        assert len(after) >= len(before) >= 50
    assert await listed(js, 1000) == list(range(400))
    assert await listed(js, 7) == list(range(393, 400))


async def test_the_newest_of_a_rare_kind_are_found_behind_many_others(nc: Client) -> None:
    js = nc.jetstream()
    base = {"issuer": "x", "reason": "r", "at": utc_now(), "expires_at": utc_now()}
    for number in range(3):
        scale = ScaleCommand(id=f"s{number}", pool="p", replicas=number, **base)
        await js.publish("commands.scale.p", scale.model_dump_json().encode())
    power = PowerCommand(id="c", node="n", device="d", **base).model_dump_json().encode()
    await asyncio.gather(*(js.publish("commands.power.n.d", power) for _ in range(500)))
    found = await last_messages(js, "COMMANDS", "commands.scale.*", ScaleCommand, limit=2)
    assert [c.replicas for c in found] == [1, 2]
    assert await last_messages(js, "COMMANDS", "commands.batch.*", ScaleCommand, limit=2) == []


async def test_a_bucket_is_read_whole_while_it_is_written(nc: Client) -> None:
    js = nc.jetstream()
    kv = await js.key_value("inventory")

    async def put(numbers: range) -> None:
        for number in numbers:
            node = f"n{number % 100}"
            body = NodeInventory(node=node, at=utc_now(), period_s=1.0, devices=[device(device="g")])
            await kv.put(node, body.model_dump_json().encode())

    await put(range(100))
    await kv.delete("n0")
    writing = asyncio.create_task(put(range(1, 100)))
    began, readings = time.perf_counter(), 0
    while not writing.done():
        assert set(await bucket_items(js, "inventory", NodeInventory)) == {f"n{i}" for i in range(1, 100)}
        readings += 1
    await writing
    assert readings >= 2 or time.perf_counter() - began < 1.0
    assert await bucket_values(js, "no_such_bucket") == {}


async def test_a_stream_that_is_gone_is_told(nc: Client) -> None:
    js = nc.jetstream()
    await js.delete_stream("AUDIT")
    with pytest.raises(NotFoundError, match="stream not found"):
        await listed(js, 5)

"""What somebody writes past our client into buckets and object stores stops no reader of them."""

from __future__ import annotations

import asyncio
import base64
import json
from datetime import timedelta
from typing import Any

import pytest
from nats.aio.client import Client
from prometheus_client import CollectorRegistry

from accelerator_autopilot.contracts.errors import InvalidInputError, NotFoundError
from accelerator_autopilot.runtime.leader_election import leading_token
from accelerator_autopilot.scheduler.adapters.latest_frames import LatestFrames
from accelerator_autopilot.scheduler.adapters.observation_reader import READ_METRICS, FleetReader
from accelerator_autopilot.scheduler.domain.latest_readings import LatestReadings
from accelerator_autopilot.transport.clock import utc_now
from accelerator_autopilot.transport.object_store import object_names, write_object
from accelerator_autopilot.transport.payload_store import drop_payload, load_payload, store_payload, sweep_payloads
from tests.support.builders import alert

pytestmark = pytest.mark.nats

WHOLE = {
    "name": "x",
    "bucket": "payloads",
    "nuid": "n",
    "size": 3,
    "chunks": 1,
    "digest": "SHA-256=x",
    "deleted": False,
}
DESCRIPTIONS: list[bytes] = [
    b"", b"no json", b"[1]", b"null", b"[" * 3000, b"\xff\xfe", json.dumps(WHOLE | {"name": 1.5}).encode(),
    json.dumps(WHOLE | {"size": "many"}).encode(), json.dumps(WHOLE | {"size": -1}).encode(),
    json.dumps(WHOLE | {"nuid": "a b"}).encode(), json.dumps(WHOLE | {"nuid": "*"}).encode(),
    json.dumps(WHOLE | {"options": 7}).encode(),
]  # fmt: skip


async def describe(nc: Client, name: str, description: bytes) -> None:
    encoded = base64.urlsafe_b64encode(name.encode()).decode()
    await nc.jetstream().publish(f"$O.payloads.M.{encoded}", description, headers={"Nats-Rollup": "sub"})


async def test_descriptions_that_no_client_wrote_hold_up_no_sweep(nc: Client) -> None:
    js, now = nc.jetstream(), utc_now()
    kept = await store_payload(js, "kept", {"text": "x"}, now + timedelta(hours=1))
    old = await store_payload(js, "old", {"text": "x"}, now - timedelta(seconds=5))
    for number, description in enumerate(DESCRIPTIONS):
        await describe(nc, f"1-{number}", description)
        await describe(nc, f"²-{number}", description)
    async with asyncio.timeout(10):
        assert await sweep_payloads(js, now) == len(DESCRIPTIONS) + 1
    left = await object_names(js, "payloads")
    assert kept in left
    assert old not in left
    assert not [name for name in left if name.startswith("1-")]
    assert await load_payload(js, kept) == {"text": "x"}


@pytest.mark.parametrize("description", DESCRIPTIONS)
async def test_a_payload_that_nothing_describes_is_not_there(nc: Client, description: bytes) -> None:
    await describe(nc, "9999999999-x", description)
    with pytest.raises(NotFoundError):
        await load_payload(nc.jetstream(), "9999999999-x")
    await drop_payload(nc.jetstream(), "9999999999-x")


@pytest.mark.parametrize("content", [b"no json", b"\xff", b"[" * 100_000])
async def test_a_payload_that_is_no_json_is_a_wrong_input(nc: Client, content: bytes) -> None:
    await write_object(nc.jetstream(), "payloads", "9999999999-x", content)
    with pytest.raises(InvalidInputError, match="is not valid JSON"):
        await load_payload(nc.jetstream(), "9999999999-x")


async def test_a_key_that_no_client_can_ask_for_hides_no_alert(nc: Client) -> None:
    js, hot = nc.jetstream(), alert(severity="critical")
    for key in ("ü", "~", "$.x", "a.b.c.d"):
        await js.publish(f"$KV.open_alerts.{key}", b"rubbish")
    await js.publish(f"$KV.open_alerts.{hot.node}.{hot.device}.{hot.kind}", hot.model_dump_json().encode())
    frames = LatestFrames(LatestReadings(READ_METRICS), lambda: utc_now().timestamp(), 10.0, CollectorRegistry())
    sight = await FleetReader(js, 10.0, frames).critical()
    assert set(sight.critical) == {(hot.node, hot.device)}


@pytest.mark.parametrize("value", [b"", b"x", b"scheduler " + b"9" * 6000, "scheduler ²".encode(), b"\xff"])
async def test_a_lease_that_no_leader_wrote_is_no_token(nc: Client, value: bytes) -> None:
    await nc.jetstream().publish("$KV.leader.scheduler", value)
    found: Any = await leading_token(nc.jetstream(), "scheduler")
    assert found is None

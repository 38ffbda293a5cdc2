"""Buckets that are lost, made anew or written to by others, and names that no subject can carry."""

from __future__ import annotations

import asyncio

import pytest
from nats.js import api
from prometheus_client import CollectorRegistry

from accelerator_autopilot.anomaly.app import create_app as create_anomaly
from accelerator_autopilot.anomaly.settings import AnomalySettings
from accelerator_autopilot.client import AutopilotClient
from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.runtime import consumers
from accelerator_autopilot.runtime.health import HealthState
from accelerator_autopilot.runtime.leader_election import LeaderElection, leading_token
from accelerator_autopilot.transport import stream_setup
from accelerator_autopilot.transport.clock import utc_now
from tests.conftest import NatsServer
from tests.support.apps import running
from tests.support.builders import event
from tests.support.waiting import eventually

pytestmark = [pytest.mark.nats, pytest.mark.timeout(120)]


async def test_a_leader_leads_again_when_its_bucket_is_made_anew(client: AutopilotClient) -> None:
    await stream_setup.ensure(client.js)
    leads = LeaderElection(client.js, "a", "scheduler")
    leading = asyncio.create_task(leads.run())
    try:
        await eventually(lambda: leads.token)

        async def told() -> bool:
            return await leading_token(client.js, "scheduler") == leads.token is not None

        await eventually(told)
        await client.js.delete_stream("KV_leader")
        assert await leading_token(client.js, "scheduler") is None
        await eventually(told, 15)
    finally:
        leading.cancel()
        await asyncio.wait([leading])
    assert await leading_token(client.js, "scheduler") is None


async def test_open_alerts_come_back_after_their_bucket_was_lost_or_scribbled_on(
    nats_server: NatsServer, client: AutopilotClient
) -> None:
    async with running(create_anomaly(AnomalySettings(nats_url=nats_server.url))):
        long = "\U0001f4a5" * 50
        poison = event("xid", code=79, at=utc_now(), node=long, device=long)
        await client.js.publish("telemetry.events.a.b", poison.model_dump_json().encode())
        xid = event("xid", code=79, at=utc_now())
        await client.js.publish(subjects.event("n1", "gpu-0"), xid.model_dump_json().encode())

        async def open_kinds() -> bool:
            return [a.kind for a in await client.alerts.open()] == ["xid_79"]

        await eventually(open_kinds, 20)
        key = subjects.alert_key("n1", "gpu-0", "xid_79")
        await (await client.js.key_value("open_alerts")).put(key, b"scribble")
        await eventually(open_kinds, 20)
        await client.js.delete_stream("KV_open_alerts")
        await client.js.create_key_value(api.KeyValueConfig(bucket="open_alerts"))
        await eventually(open_kinds, 20)
        await client.steering.drain("n1", "gpu-0", "restore")

        async def none_open() -> bool:
            return await client.alerts.open() == []

        await eventually(none_open, 20)


async def test_an_alert_that_is_over_is_removed_once(nats_server: NatsServer, client: AutopilotClient) -> None:
    async with running(create_anomaly(AnomalySettings(nats_url=nats_server.url))):
        for device in ("gpu-0", "gpu-1"):
            xid = event("xid", code=79, at=utc_now(), id=f"e-{device}", device=device)
            await client.js.publish(subjects.event("n1", device), xid.model_dump_json().encode())

        async def open_devices() -> list[str]:
            return sorted(alert.device for alert in await client.alerts.open())

        async def both() -> bool:
            return await open_devices() == ["gpu-0", "gpu-1"]

        await eventually(both, 20)
        await client.steering.drain("n1", "gpu-0", "restore")

        async def one() -> bool:
            return await open_devices() == ["gpu-1"]

        await eventually(one, 20)
        bucket = await client.js.key_value("open_alerts")
        written = (await bucket.put("scribble.of.others", b"{")) + 1

        async def removed() -> bool:
            return (await client.js.stream_info("KV_open_alerts")).state.last_seq >= written

        await eventually(removed, 20)
        await asyncio.sleep(1.0)
        assert (await client.js.stream_info("KV_open_alerts")).state.last_seq == written


async def test_a_bucket_that_is_lost_is_made_again_while_services_run(
    nats_server: NatsServer, client: AutopilotClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumers, "COUNT_INTERVAL_S", 0.5)
    monkeypatch.setattr(consumers, "WATCH_PERIOD_S", 0.1)
    watchdog = consumers.ConsumerWatchdog(client.js, [], HealthState("x"), CollectorRegistry())
    watching = asyncio.create_task(watchdog.run())
    try:
        await eventually(lambda: watchdog._streams)
        await client.js.delete_stream("KV_scheduler")
        await client.js.delete_stream("OBJ_artifacts")

        async def there() -> bool:
            names = {info.config.name for info in await client.js.streams_info()}
            return {"KV_scheduler", "OBJ_artifacts"} <= names

        await eventually(there, 20)
    finally:
        watching.cancel()

"""What an Alertmanager has active beside what is open here: a small one, and the real one where it is installed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from faststream import FastStream

from accelerator_autopilot.client import AutopilotClient
from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.notifier.app import create_app
from accelerator_autopilot.notifier.application import alertmanager_renewal
from accelerator_autopilot.notifier.domain import message_formats
from accelerator_autopilot.notifier.settings import NotifierSettings
from accelerator_autopilot.transport.clock import utc_now
from tests.conftest import NatsServer
from tests.support.alertmanager import BINARY, Alertmanager, RealAlertmanager, SmallAlertmanager
from tests.support.apps import running
from tests.support.builders import alert
from tests.support.waiting import eventually

AHEAD_S = 2.0


@pytest.fixture(params=["small", "real"])
async def manager(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Alertmanager]:
    if request.param == "real" and BINARY is None:
        pytest.skip("Alertmanager is not installed")
    made: Alertmanager = RealAlertmanager(tmp_path) if request.param == "real" else SmallAlertmanager()
    await made.start()
    yield made
    await made.stop()


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Minutes as seconds: what is renewed each half second ends two seconds after the last renewal."""
    monkeypatch.setattr(message_formats, "ALERTMANAGER_AHEAD", timedelta(seconds=AHEAD_S))
    monkeypatch.setattr(alertmanager_renewal, "RENEW_S", 0.5)
    monkeypatch.setattr(alertmanager_renewal, "RENEW_RETRY_S", 0.5)
    monkeypatch.setattr(alertmanager_renewal, "CAUGHT_UP_S", 0.5)


def notifier(server: NatsServer) -> AbstractAsyncContextManager[FastStream]:
    return running(create_app(NotifierSettings(nats_url=server.url, webhook_private_targets=True)))


async def publish(
    client: AutopilotClient, name: str, severity: str = "warning", state: str = "opened", **more: Any
) -> None:
    made = alert(id=name, severity=severity, state=state, at=utc_now(), **({"opened_at": utc_now()} | more))
    subject = subjects.alert(severity, made.node, made.device)
    await client.js.publish(subject, made.model_dump_json().encode())


async def becomes(manager: Alertmanager, *active: str) -> None:
    async def seen() -> bool:
        return await manager.active() == sorted(active)

    await eventually(seen, 15, f"active there: {active}")


async def stays(manager: Alertmanager, *active: str, for_s: float = AHEAD_S + 1.0) -> None:
    """It is so for longer than any end that was told."""
    until = asyncio.get_running_loop().time() + for_s
    while asyncio.get_running_loop().time() < until:
        assert await manager.active() == sorted(active)
        await asyncio.sleep(0.1)


async def test_what_is_open_stays_active_what_gets_worse_is_one_alert_and_the_end_ends_it(
    nats_server: NatsServer, client: AutopilotClient, manager: Alertmanager
) -> None:
    await client.alerts.subscribe(manager.url, channel="alertmanager")
    async with notifier(nats_server):
        await publish(client, "a", opened_at=utc_now() - timedelta(hours=1))
        await becomes(manager, "thermal warning")
        await stays(manager, "thermal warning")
        await publish(client, "a", "critical", "updated")
        await becomes(manager, "thermal critical")
        await stays(manager, "thermal critical", for_s=1.0)
        await manager.stop()
        await manager.start()
        await becomes(manager, "thermal critical")
    async with notifier(nats_server):
        await stays(manager, "thermal critical")
        await publish(client, "a", "critical", "resolved")
        await becomes(manager)
        await stays(manager, for_s=1.5)


async def test_a_notifier_that_is_dead_for_longer_lets_alerts_lapse_and_tells_them_again(
    nats_server: NatsServer, client: AutopilotClient, manager: Alertmanager
) -> None:
    await client.alerts.subscribe(manager.url, channel="alertmanager")
    async with notifier(nats_server):
        await publish(client, "a")
        await publish(client, "b", "critical", kind="xid_79")
        await becomes(manager, "thermal warning", "xid_79 critical")
    await becomes(manager)
    await publish(client, "a", state="resolved")
    async with notifier(nats_server):
        await becomes(manager, "xid_79 critical")
        # What ended meanwhile was not said to go on for a moment.
        await stays(manager, "xid_79 critical", for_s=1.0)


async def test_what_waits_to_be_told_ends_nothing_that_was_told(
    nats_server: NatsServer, client: AutopilotClient, manager: Alertmanager
) -> None:
    await client.alerts.subscribe(manager.url, channel="alertmanager")
    async with notifier(nats_server):
        await publish(client, "a")
        await becomes(manager, "thermal warning")
        silence = await client.alerts.silence(utc_now() + timedelta(hours=1), kind="*")
        await asyncio.sleep(0.5)
        # Silenced: it is not told that it is worse, nor that another one opened; and it is still open.
        await publish(client, "a", "critical", "updated")
        await publish(client, "b", kind="xid_79")
        await stays(manager, "thermal warning")
        await client.alerts.unsilence(silence.id)
        await becomes(manager, "thermal critical", "xid_79 warning")


async def test_an_incident_is_one_alert_until_the_last_of_it_has_ended(
    nats_server: NatsServer, client: AutopilotClient, manager: Alertmanager
) -> None:
    await client.alerts.subscribe(manager.url, channel="alertmanager", by_incident=True)
    async with notifier(nats_server):
        await publish(client, "a", incident="i")
        await becomes(manager, "thermal warning")
        await publish(client, "b", kind="throttle", incident="i")
        await publish(client, "a", state="resolved", incident="i")
        await stays(manager, "thermal warning")
        await publish(client, "b", kind="throttle", state="resolved", incident="i")
        await becomes(manager)


async def test_filters_by_severity_know_the_end_of_what_became_worse(
    nats_server: NatsServer, client: AutopilotClient, manager: Alertmanager
) -> None:
    await client.alerts.subscribe(manager.url, channel="alertmanager", severities=["warning"])
    async with notifier(nats_server):
        await publish(client, "a")
        await becomes(manager, "thermal warning")
        await publish(client, "a", "critical", "updated")
        await stays(manager, "thermal warning", for_s=1.0)
        await publish(client, "a", "critical", "resolved")
        await becomes(manager)


async def test_what_was_open_before_it_subscribed_and_odd_clocks(
    nats_server: NatsServer, client: AutopilotClient, manager: Alertmanager
) -> None:
    old = alert(id="old", kind="xid_79", severity="critical", opened_at=utc_now() - timedelta(hours=5))
    kv = await client.js.key_value("open_alerts")
    await kv.put(subjects.alert_key(old.node, old.device, old.kind), old.model_dump_json().encode())
    await client.alerts.subscribe(manager.url, channel="alertmanager")
    async with notifier(nats_server):
        await becomes(manager, "xid_79 critical")
        # Another machine's clock is ahead: the alert opens in a future, and ends before it.
        await publish(client, "a", opened_at=utc_now() + timedelta(minutes=10))
        await becomes(manager, "thermal warning", "xid_79 critical")
        await publish(client, "a", state="resolved", opened_at=utc_now() + timedelta(minutes=10))
        await becomes(manager, "xid_79 critical")


async def test_a_silence_of_its_own_outlives_renewals(
    nats_server: NatsServer, client: AutopilotClient, tmp_path: Path
) -> None:
    if BINARY is None:
        pytest.skip("Alertmanager is not installed")
    manager = RealAlertmanager(tmp_path)
    await manager.start()
    try:
        await manager.silence(alertname="thermal")
        await client.alerts.subscribe(manager.url, channel="alertmanager")
        async with notifier(nats_server):
            await publish(client, "a")

            async def silenced() -> bool:
                return await manager.silenced() == ["thermal warning"]

            await eventually(silenced, 15)
            await stays(manager)
            assert await silenced()
    finally:
        await manager.stop()

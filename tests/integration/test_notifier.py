"""The notifier under slow receivers, held alerts, a frozen broker and restarts."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from accelerator_autopilot.client import AutopilotClient
from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.errors import UnavailableError
from accelerator_autopilot.contracts.messages.audit import AuditRecord
from accelerator_autopilot.notifier.app import create_app
from accelerator_autopilot.notifier.settings import NotifierSettings
from accelerator_autopilot.runtime import consumers
from accelerator_autopilot.runtime.audit_log import AuditOutbox
from accelerator_autopilot.runtime.health import HealthState
from accelerator_autopilot.transport.audit_records import record
from accelerator_autopilot.transport.clock import utc_now
from tests.conftest import NatsServer
from tests.support.apps import running
from tests.support.builders import alert
from tests.support.waiting import eventually


class Receiver:
    """One HTTP server of many manners: /ok takes, /slow takes its time, /silent, /half and /endless answer badly."""

    def __init__(self) -> None:
        self.posts: list[tuple[str, Any]] = []

    def of(self, path: str) -> list[str]:
        return [f"{b['data']['id']} {b['type'].removeprefix('alert.')}" for p, b in self.posts if p == path]

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                lines = head.lower().split("\r\n")
                length = next(int(h.split(":")[1]) for h in lines if h.startswith("content-length"))
                body = json.loads(await reader.readexactly(length))
                path = head.split(" ")[1]
                if path == "/silent":
                    await asyncio.sleep(3600)
                if path == "/half":
                    writer.write(b"HTTP/1.1 200 O")
                    await asyncio.sleep(3600)
                if path == "/endless":
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n")
                    while True:
                        writer.write(b"x" * 65536)
                        await writer.drain()
                self.posts.append((path, body))
                if path == "/slow":
                    await asyncio.sleep(0.4)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()


async def publish(
    client: AutopilotClient, name: str, severity: str = "warning", state: str = "opened", **more: Any
) -> None:
    made = alert(id=name, severity=severity, state=state, at=utc_now(), **({"opened_at": utc_now()} | more))
    body = made.model_dump_json().encode()
    await client.js.publish(subjects.alert(severity, made.node, made.device), body)


def settings(server: NatsServer, **more: Any) -> NotifierSettings:
    return NotifierSettings(nats_url=server.url, webhook_private_targets=True, **more)


async def test_a_critical_alert_passes_what_waits_and_hundreds_that_wait_stop_nobody(
    nats_server: NatsServer, client: AutopilotClient
) -> None:
    receiver = Receiver()
    now = datetime.now(UTC)
    quiet = {"quiet_from": (now - timedelta(hours=1)).time(), "quiet_to": (now + timedelta(hours=1)).time()}
    async with receiver.serving() as url, running(create_app(settings(nats_server))):
        await client.alerts.subscribe(f"{url}/ok", **quiet)
        await asyncio.gather(*(publish(client, f"w{number}") for number in range(400)))
        await publish(client, "worse")
        await publish(client, "c", "critical")
        await publish(client, "worse", "critical", "updated")
        await eventually(lambda: sorted(receiver.of("/ok")) == ["c opened", "worse updated"], 20)

        async def kept() -> bool:
            info = await client.js.stream_info("KV_notices")
            return bool(info.state.messages >= 402)

        await eventually(kept, 20)
    async with receiver.serving() as url, running(create_app(settings(nats_server))):
        await client.alerts.subscribe(f"{url}/other")
        await publish(client, "d", "critical")
        await eventually(lambda: "d opened" in receiver.of("/other"), 20)
    assert not [told for told in receiver.of("/ok") if told.startswith("w") and told != "worse updated"]


async def test_an_open_alert_is_told_once_and_its_end_also_after_a_restart(
    nats_server: NatsServer, client: AutopilotClient
) -> None:
    receiver = Receiver()
    async with receiver.serving() as url:
        await client.alerts.subscribe(f"{url}/ok", by_incident=True)
        async with running(create_app(settings(nats_server))):
            await publish(client, "a", incident="i")
            for _ in range(5):
                await publish(client, "a", state="updated", incident="i")
            await publish(client, "b", incident="i")
            await eventually(lambda: receiver.of("/ok") == ["a opened"], 20)
        async with running(create_app(settings(nats_server))):
            await publish(client, "b", state="resolved", incident="i")
            await publish(client, "a", state="resolved", incident="i")
            await eventually(lambda: receiver.of("/ok") == ["a opened", "a resolved"], 20)


async def test_what_is_being_told_at_the_end_is_not_told_again(
    nats_server: NatsServer, client: AutopilotClient
) -> None:
    receiver = Receiver()
    async with receiver.serving() as url:
        await client.alerts.subscribe(f"{url}/slow")
        async with running(create_app(settings(nats_server))):
            await publish(client, "a")
            await eventually(lambda: receiver.of("/slow") == ["a opened"], 20)
        async with running(create_app(settings(nats_server))):
            await publish(client, "b")
            await eventually(lambda: "b opened" in receiver.of("/slow"), 20)
    assert receiver.of("/slow") == ["a opened", "b opened"]


async def test_what_was_silenced_is_told_when_the_silence_ends_and_it_is_still_open(
    nats_server: NatsServer, client: AutopilotClient
) -> None:
    receiver = Receiver()
    async with receiver.serving() as url, running(create_app(settings(nats_server))):
        silence = await client.alerts.silence(utc_now() + timedelta(hours=1), kind="thermal")
        await asyncio.sleep(0.5)
        await client.alerts.subscribe(f"{url}/ok")
        await publish(client, "open")
        await publish(client, "over")
        await publish(client, "over", state="resolved")
        await publish(client, "other", kind="xid_79")
        await eventually(lambda: receiver.of("/ok") == ["other opened"], 20)
        await client.alerts.unsilence(silence.id)
        await eventually(lambda: receiver.of("/ok") == ["other opened", "open opened"], 20)


async def test_a_broker_that_stands_still_ends_no_subscription(
    nats_server: NatsServer, client: AutopilotClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver = Receiver()
    async with receiver.serving() as url, running(create_app(settings(nats_server))):
        await client.alerts.subscribe(f"{url}/ok")
        await publish(client, "before", "critical")
        await eventually(lambda: receiver.of("/ok") == ["before opened"], 20)
        await publish(client, "during", "critical")
        assert nats_server._process is not None
        os.kill(nats_server._process.pid, signal.SIGSTOP)
        await asyncio.sleep(7)
        os.kill(nats_server._process.pid, signal.SIGCONT)
        await publish(client, "after", "critical")
        await eventually(lambda: {"during opened", "after opened"} <= set(receiver.of("/ok")), 20)

        async def logged() -> bool:
            told = [d.detail["alert"] for d in await client.alerts.deliveries() if d.action == "webhook.delivered"]
            return {"before", "during", "after"} <= set(told)

        await eventually(logged, 20)


async def test_receivers_that_answer_badly_hold_no_other(nats_server: NatsServer, client: AutopilotClient) -> None:
    receiver = Receiver()
    async with receiver.serving() as url, running(create_app(settings(nats_server, webhook_timeout_s=1.0))):
        bad = [await client.alerts.subscribe(f"{url}/{name}") for name in ("silent", "half", "endless")]
        await client.alerts.subscribe(f"{url}/ok")
        for number in range(20):
            await publish(client, f"a{number}", "critical")
        await eventually(lambda: len(receiver.of("/ok")) == 20, 10)

        async def failed() -> bool:
            told = {d.target: d.action for d in await client.alerts.deliveries(500)}
            return told.get(bad[0].id) == told.get(bad[1].id) == "webhook.failed"

        await eventually(failed, 10)


async def test_the_audit_keeps_nobody_waiting_and_loses_only_past_its_bound() -> None:
    written: list[str] = []
    away = True

    async def write(entry: AuditRecord) -> None:
        if away:
            raise UnavailableError("away")
        written.append(entry.target)

    outbox = AuditOutbox(write, CollectorRegistry(), most=3)
    task = asyncio.create_task(outbox.run())
    for number in range(5):
        outbox.put(record("notifier", "webhook.delivered", str(number)))
    await asyncio.sleep(0)
    away = False
    await eventually(lambda: written == ["2", "3", "4"])
    task.cancel()


async def test_a_watchdog_with_nothing_to_watch_does_not_stand_still(monkeypatch: pytest.MonkeyPatch) -> None:
    beats: list[bool] = []
    monkeypatch.setattr(consumers, "beat", lambda: beats.append(True))
    watchdog = consumers.ConsumerWatchdog(None, [], HealthState("x"), CollectorRegistry())  # type: ignore[arg-type]
    task = asyncio.create_task(watchdog.run())
    await eventually(lambda: beats)
    task.cancel()

"""Streams, readiness, recorder, notifier and gateway on real servers."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import nats
import pytest
from nats.aio.client import Client
from nats.js.api import StreamConfig
from pydantic import SecretStr

from accelerator_autopilot.anomaly.app import create_app as create_anomaly
from accelerator_autopilot.anomaly.settings import AnomalySettings
from accelerator_autopilot.cli.webhook_receiver import WebhookCatcher
from accelerator_autopilot.client import AutopilotClient
from accelerator_autopilot.contracts import streams, subjects
from accelerator_autopilot.contracts.errors import NotFoundError
from accelerator_autopilot.contracts.frames import encode
from accelerator_autopilot.contracts.messages.notifications import Subscription
from accelerator_autopilot.deploy.local.instance import take_port
from accelerator_autopilot.deploy.local.servers import nats_binary, wait_for_port
from accelerator_autopilot.notifier.app import create_app as create_notifier
from accelerator_autopilot.notifier.settings import NotifierSettings
from accelerator_autopilot.runtime.database import connect_pool, migrate
from accelerator_autopilot.telemetry.recorder.adapters.sample_store import PostgresFrameStore
from accelerator_autopilot.telemetry.recorder.app import create_recorder
from accelerator_autopilot.telemetry.settings import RecorderSettings
from accelerator_autopilot.transport import stream_setup
from accelerator_autopilot.transport.clock import utc_now
from tests.conftest import NatsServer
from tests.support.apps import running
from tests.support.builders import alert, event, frame
from tests.support.product import query
from tests.support.waiting import eventually

pytestmark = [pytest.mark.nats, pytest.mark.timeout(90)]


def free_port() -> int:
    from accelerator_autopilot.deploy.local.instance import take_port

    return take_port(0, "test")


async def ready(port: int) -> dict[str, Any]:
    async with httpx.AsyncClient(trust_env=False) as http:
        try:
            return (await http.get(f"http://127.0.0.1:{port}/readyz")).json()
        except httpx.HTTPError:
            return {"ready": False, "problems": {"http": "no answer"}}


class TestStreams:
    async def test_they_are_made_once_and_repaired_when_they_drift(self, nc: Client) -> None:
        js = nc.jetstream()
        before = (await js.stream_info("RESULTS")).config
        await js.update_stream(StreamConfig(**{**before.__dict__, "max_age": 600.0}))
        await stream_setup.ensure(js)
        after = (await js.stream_info("RESULTS")).config
        assert after.max_age == 7 * streams.DAY_S
        assert after.max_msgs_per_subject == 1
        assert len(await js.streams_info()) == len(streams.STREAMS) + len(streams.BUCKETS) + len(streams.OBJECT_STORES)

    async def test_on_a_small_disk_streams_keep_less_and_grow_only_where_there_is_room(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        port = take_port(0, "nats")
        config = tmp_path / "nats.conf"
        config.write_text(f'listen: 127.0.0.1:{port}\njetstream {{ store_dir: "{tmp_path}", max_file_store: 2GB }}\n')
        server = subprocess.Popen([nats_binary(), "-c", str(config)], stderr=subprocess.DEVNULL)
        try:
            await wait_for_port(port)
            connection = await nats.connect(f"nats://127.0.0.1:{port}", reconnect_time_wait=0.1)
            js = connection.jetstream()

            async def sizes() -> dict[str, int]:
                found = [(s.name or "", await js.stream_info(s.name or "")) for s in streams.STREAMS]
                return {name: info.config.max_bytes or 0 for name, info in found}

            for _ in range(2):  # what object stores did not get is left over for streams
                await stream_setup.ensure(js, results_mib=16_384)
            first = await sizes()
            assert 0 < sum(first.values()) < 2e9
            changed: list[str] = []
            update = js.update_stream

            async def noted(config: StreamConfig, **more: Any) -> Any:
                info = await update(config, **more)
                changed.append(config.name or "")
                return info

            monkeypatch.setattr(js, "update_stream", noted)
            await stream_setup.ensure(js, results_mib=16_384)
            assert (changed, await sizes()) == ([], first), "a start changes nothing where there is no more room"
            config.write_text(config.read_text().replace("2GB", "9GB"))
            server.kill()
            server.wait()
            server = subprocess.Popen([nats_binary(), "-c", str(config)], stderr=subprocess.DEVNULL)
            await eventually(lambda: connection.is_connected, 20)
            await stream_setup.ensure(js, results_mib=16_384)
            assert (await sizes())["JOBS"] >= 2 * first["JOBS"]
            await connection.close()
        finally:
            server.kill()
            server.wait()

    async def test_audit_cannot_be_purged(self, nc: Client) -> None:
        js = nc.jetstream()
        with pytest.raises(Exception, match="purge"):
            await js.purge_stream("AUDIT")


class TestReadiness:
    async def test_it_tells_of_a_lost_broker_and_of_its_return(self, nats_server: NatsServer, nc: Client) -> None:
        port = free_port()
        async with running(create_anomaly(AnomalySettings(nats_url=nats_server.url, health_port=port))):

            async def is_ready() -> bool:
                return bool((await ready(port))["ready"])

            await eventually(is_ready)
            nats_server.kill()

            async def says_so() -> bool:
                return "nats" in (await ready(port))["problems"]

            await eventually(says_so)
            await nats_server.start()
            await eventually(is_ready, 15)

    async def test_a_deleted_consumer_is_told_made_again_and_used(
        self, nats_server: NatsServer, client: AutopilotClient
    ) -> None:
        port = free_port()
        async with running(create_anomaly(AnomalySettings(nats_url=nats_server.url, health_port=port))):
            await client.js.delete_consumer("EVENTS", "anomaly-events")

            async def back() -> bool:
                with suppress(Exception):
                    return bool(await client.js.consumer_info("EVENTS", "anomaly-events"))
                return False

            await eventually(back)
            xid = event("xid", code=79, at=utc_now())
            await client.js.publish(subjects.event("n1", "gpu-0"), xid.model_dump_json().encode())

            async def alerted() -> bool:
                return [a.kind for a in await client.alerts.open()] == ["xid_79"]

            await eventually(alerted, 20)

    async def test_rubbish_on_every_subject_stops_nothing(
        self, nats_server: NatsServer, client: AutopilotClient
    ) -> None:
        chance = random.Random(7)
        good = json.loads(event("xid", code=79).model_dump_json())
        async with running(create_anomaly(AnomalySettings(nats_url=nats_server.url))):
            for number in range(60):
                mutated = dict(good)
                mutated[chance.choice(list(mutated))] = chance.choice([None, -1, "x" * 5000, [], {}])
                body = chance.choice([chance.randbytes(chance.randrange(200)), json.dumps(mutated).encode()])
                subject = chance.choice([subjects.event("n1", f"d{number}"), subjects.frames("n1")])
                await client.js.publish(subject, body)
            await client.js.publish(
                subjects.event("n1", "gpu-9"), event("lost", device="gpu-9").model_dump_json().encode()
            )

            async def alerted() -> bool:
                return any(a.device == "gpu-9" for a in await client.alerts.open())

            await eventually(alerted, 30)

            async def drained() -> bool:
                info = await client.js.consumer_info("EVENTS", "anomaly-events")
                return (info.num_pending or 0) + (info.num_ack_pending or 0) == 0

            await eventually(drained, 20)


@pytest.mark.db
class TestRecorder:
    async def test_each_sample_is_written_once(self, database_url: str) -> None:
        await migrate(database_url)
        await migrate(database_url)
        pool = await connect_pool(database_url)
        store = PostgresFrameStore(pool)
        names = ("power_w", "temp_c")
        began = utc_now()
        first = frame(metrics=names, ticks=3, devices=("a", "b"), start=began)
        first.values[1, 0, 1] = float("nan")
        assert await store.write([first]) == 6
        overlapping = frame(metrics=names, ticks=3, devices=("a", "b"), start=began + timedelta(seconds=2))
        assert await store.write([first, overlapping]) == 4
        assert await PostgresFrameStore(pool).write([first]) == 0
        rows = await query(database_url, "SELECT temp_c FROM samples s JOIN devices d USING (device_id) "
                           "WHERE device = 'a' ORDER BY ts")  # fmt: skip
        assert [r["temp_c"] for r in rows] == [1.0, None, 1.0, 1.0, 1.0]
        await pool.close()

    async def test_the_past_can_be_replayed(self, database_url: str) -> None:
        await migrate(database_url)
        pool = await connect_pool(database_url)
        began = utc_now().replace(microsecond=0)
        hot = frame(metrics=("temp_c", "temp_slowdown_c"), ticks=60, devices=("a", "b"), start=began)
        hot.values[:] = [60.0, 83.0]
        hot.values[30:, 1, 0] = 90.0
        await PostgresFrameStore(pool).write([hot])
        await pool.close()
        span = ["--from", began.isoformat(), "--to", (began + timedelta(seconds=60)).isoformat()]
        environment = os.environ | {"AUTOPILOT_DATABASE_URL": database_url}
        command = [sys.executable, "-m", "accelerator_autopilot.anomaly.replay", *span]
        process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=asyncio.subprocess.PIPE)
        out, _ = await process.communicate()
        (told,) = [json.loads(line) for line in out.splitlines()]
        assert (told["device"], told["kind"]) == ("n1/b", "thermal")
        assert 30 <= told["opened_s"] - began.timestamp() <= 34

    async def test_streams_reach_the_database_and_an_outage_loses_nothing(
        self, nats_server: NatsServer, client: AutopilotClient, database_url: str, secret_url: SecretStr
    ) -> None:
        async def rows(table: str) -> int:
            return int((await query(database_url, f"SELECT count(*) AS n FROM {table}"))[0]["n"])

        began = utc_now()

        async def publish(number: int) -> None:
            body = encode(frame(start=began + timedelta(seconds=number), sequence=number + 1))
            await client.js.publish(subjects.frames("n1"), body)
            xid = event("xid", number, id=f"e{number}", code=31)
            await client.js.publish(subjects.event("n1", "gpu-0"), xid.model_dump_json().encode())

        settings = RecorderSettings(nats_url=nats_server.url, database_url=secret_url)
        async with running(create_recorder(settings)):
            for number in range(10):
                await publish(number)
            await client.js.publish(subjects.frames("n1"), b"rubbish")
            await client.js.publish(subjects.event("n1", "gpu-0"), b"{}")

            async def ten() -> bool:
                with suppress(asyncpg.PostgresError):
                    return (await rows("samples"), await rows("events")) == (10, 10)
                return False

            await eventually(ten, 20)
            name = database_url.partition("?")[0].rsplit("/", 1)[1]
            admin = await asyncpg.connect(database_url.replace(name, "postgres", 1))
            await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
            await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
            for number in range(10, 30):
                await publish(number)
            await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
            await admin.close()

            async def thirty() -> bool:
                with suppress(asyncpg.PostgresError, OSError):
                    return (await rows("samples"), await rows("events")) == (30, 30)
                return False

            await eventually(thirty, 40)


class TestNotifier:
    async def test_webhooks_arrive_signed_retried_and_across_restarts(
        self, nats_server: NatsServer, client: AutopilotClient
    ) -> None:
        catcher = WebhookCatcher(answers=(500, 204))
        catcher.start()
        settings = NotifierSettings(nats_url=nats_server.url, webhook_private_targets=True)
        subscription = await client.alerts.subscribe(catcher.url, severities=["critical"])

        async def publish(identity: str, severity: str) -> None:
            told = alert(id=identity, severity=severity, at=utc_now(), opened_at=utc_now())
            await client.js.publish(subjects.alert(severity, "n1", "gpu-0"), told.model_dump_json().encode())

        def received() -> set[str]:
            bodies = [c.verified(subscription.secret) for c in catcher.caught]
            assert None not in bodies, "a signature was not valid"
            return {b["data"]["id"] for b in bodies if b}

        try:
            async with running(create_notifier(settings)):
                await publish("one", "critical")
                await publish("quiet", "warning")
                await eventually(lambda: len(catcher.caught) >= 2 and received() == {"one"}, 20)
                assert len({c.headers["webhook-id"] for c in catcher.caught}) == 1, "a retry keeps its id"
            await publish("two", "critical")
            async with running(create_notifier(settings)):
                await eventually(lambda: received() == {"one", "two"}, 20)
                await client.js.delete_consumer("ALERTS", f"notifier-{subscription.id}")
                await publish("three", "critical")
                await eventually(lambda: received() == {"one", "two", "three"}, 20)
        finally:
            catcher.stop()

        async def audited() -> bool:
            records = [await client.js.get_msg("AUDIT", s) for s in range(1, 5)]
            actions = [json.loads(r.data or b"{}")["action"] for r in records]
            return {"webhook.failed", "webhook.delivered"} <= set(actions)

        await eventually(audited)

    async def test_silences_acknowledgement_and_the_test_button(
        self, nats_server: NatsServer, client: AutopilotClient
    ) -> None:
        catcher = WebhookCatcher()
        catcher.start()
        settings = NotifierSettings(nats_url=nats_server.url, webhook_private_targets=True)
        plain = await client.alerts.subscribe(catcher.url, nodes=["n1"])
        late = await client.alerts.subscribe(catcher.url + "/late", nodes=["n2"], escalate_after_s=0.5)
        await client.alerts.silence(utc_now() + timedelta(hours=1), kind="thermal", reason="fans are changed")

        async def publish(identity: str, node: str, kind: str) -> None:
            told = alert(id=identity, node=node, kind=kind, severity="critical", at=utc_now(), opened_at=utc_now())
            body = told.model_dump_json().encode()
            key = subjects.alert_key(node, told.device, kind)
            await (await client.js.key_value("open_alerts")).put(key, body)
            await client.js.publish(subjects.alert("critical", node, told.device), body)

        def received(subscription: Subscription) -> list[str]:
            bodies = [c.verified(subscription.secret) for c in catcher.caught]
            return [str(b["data"]["id"]) for b in bodies if b]

        try:
            async with running(create_notifier(settings)):

                async def answers() -> bool:
                    return (await client.alerts.deliver(plain.id)).ok

                await eventually(answers, 20)
                assert received(plain)[0].startswith("test-")
                with pytest.raises(NotFoundError):
                    await client.alerts.deliver("nobody")
                await publish("hushed", "n1", "thermal")
                await publish("told", "n1", "xid_79")
                await publish("taken", "n2", "ecc_uncorrected")
                await client.alerts.acknowledge("taken", "on it")
                await publish("alone", "n2", "xid_48")
                await eventually(lambda: received(plain)[-1] == "told" and received(late) == ["alone"], 20)
        finally:
            catcher.stop()
        assert "hushed" not in received(plain)

        async def silenced() -> bool:
            return "webhook.silenced" in {d.action for d in await client.alerts.deliveries()}

        await eventually(silenced)
        with pytest.raises(NotFoundError):
            await client.alerts.acknowledge("nothing")


async def test_a_broker_that_is_down_is_said_at_once() -> None:
    from accelerator_autopilot.contracts.errors import UnavailableError
    from accelerator_autopilot.transport.settings import NatsSettings

    with pytest.raises(UnavailableError, match=r"127\.0\.0\.1:1"):
        async with asyncio.timeout(10), AutopilotClient(NatsSettings(nats_url="nats://127.0.0.1:1")):
            pass

"""Messages that cannot be handled, in every loop that takes messages by itself: counted, kept, and no end of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client
from nats.js import JetStreamContext
from prometheus_client import CollectorRegistry

from accelerator_autopilot.cli.commands.jobs import set_aside_rows
from accelerator_autopilot.client import AutopilotClient
from accelerator_autopilot.contracts import streams, subjects
from accelerator_autopilot.contracts.messages.jobs import Job, JobResult
from accelerator_autopilot.inference.pool.application import queue_maintenance as keeper_module
from accelerator_autopilot.inference.pool.application.queue_maintenance import WAITING, QueueMaintenance
from accelerator_autopilot.notifier.app import create_app as create_notifier
from accelerator_autopilot.notifier.application.alert_consumer import durable_name
from accelerator_autopilot.notifier.settings import NotifierSettings
from accelerator_autopilot.runtime import poison_messages
from accelerator_autopilot.runtime.leader_election import LeaderElection
from accelerator_autopilot.transport import stream_setup
from accelerator_autopilot.transport.clock import utc_now
from tests.conftest import NatsServer
from tests.support.apps import running
from tests.support.builders import alert
from tests.support.gateway import gateway_app
from tests.support.poison import poison_rule
from tests.support.waiting import eventually
from tests.support.worker import worker_process

pytestmark = [pytest.mark.nats, pytest.mark.timeout(90)]

RUBBISH = (b"", b"\xff\xfe", b"[1]", b'{"id": 7}', b"{" * 3000)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poison_messages, "BACKOFF_S", (0.1,))
    monkeypatch.setattr(keeper_module, "PAYLOADS_PERIOD_S", 0.2)


@asynccontextmanager
async def keeper(nc: Client, registry: CollectorRegistry) -> AsyncIterator[QueueMaintenance]:
    js = nc.jetstream(timeout=5.0)
    for stream, config in (("JOBS", streams.waiting_durable()), ("LATER", streams.due_durable())):
        await stream_setup.ensure_consumer(js, stream, config)
    made = QueueMaintenance(nc, js, LeaderElection(js, "test", "queue"), poison_rule(js, registry), 60.0)
    task = asyncio.create_task(made.run())
    try:
        yield made
        assert not task.done(), "the keeper goes on"
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def count(registry: CollectorRegistry, consumer: str, error: str) -> float:
    labels = {"consumer": consumer, "error": error}
    return registry.get_sample_value("autopilot_messages_poison_total", labels) or 0.0


def succeeded(job_id: str) -> bytes:
    now = utc_now()
    made = JobResult(job_id=job_id, kind="echo", status="succeeded", submitted_at=now, finished_at=now)
    return made.model_dump_json().encode()


async def result(client: AutopilotClient, job_id: str) -> JobResult:
    return await client.jobs.wait(job_id, 20)


async def empty(js: JetStreamContext, stream: str) -> bool:
    return (await js.stream_info(stream)).state.messages == 0


class TestKeeper:
    async def test_what_it_fails_on_three_times_ends_as_a_dead_job_and_holds_up_no_other(
        self, client: AutopilotClient, nc: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        forward_job = keeper_module.forward_job

        async def fails(js: JetStreamContext, message: Any, job: Job, *rest: Any) -> bool:
            if job.id == "evil":
                raise RuntimeError("SECRET")
            return await forward_job(js, message, job, *rest)

        monkeypatch.setattr(keeper_module, "forward_job", fails)
        await client.js.publish("results.first", succeeded("first"))
        registry = CollectorRegistry()
        for number, body in enumerate(RUBBISH):
            await client.js.publish(f"waiting.rubbish-{number}", body)
            await client.js.publish(f"due.rubbish-{number}-due", body)
        await client.jobs.submit("echo", {"text": "x"}, job_id="evil", after=["first"])
        await client.jobs.submit("echo", {"text": "x"}, job_id="good", after=["first"])
        async with keeper(nc, registry):
            assert (await result(client, "evil")).errors[-1].message == "could not be handled: RuntimeError"
            assert count(registry, WAITING, "RuntimeError") == poison_messages.ATTEMPTS
            for number in range(len(RUBBISH)):
                assert (await result(client, f"rubbish-{number}")).status == "failed"
                assert (await result(client, f"rubbish-{number}-due")).status == "failed"
            await eventually(lambda: empty(client.js, "LATER"))
            queued = await client.jobs.queued()
        assert [(job.id, job.state) for job in queued] == [("good", "queued")]
        letters = await client.dead.list("echo")
        assert [(letter.id, letter.reason) for letter in letters] == [("evil", "permanent_error")]
        assert "SECRET" not in letters[0].model_dump_json()

    async def test_a_result_that_cannot_be_read_is_an_end_that_did_not_succeed(
        self, client: AutopilotClient, nc: Client
    ) -> None:
        await client.js.publish("results.odd", b"not json")
        await client.jobs.submit("echo", {"text": "x"}, job_id="after-odd", after=["odd"])
        async with keeper(nc, CollectorRegistry()):
            ended = await result(client, "after-odd")
        assert ended.errors[-1].type == "dependency_failed"

    async def test_rubbish_among_payloads_and_results_stops_nothing(self, client: AutopilotClient, nc: Client) -> None:
        registry = CollectorRegistry()
        store = await client.js.object_store("payloads")
        await store.put("\N{SUPERSCRIPT TWO}-odd", b"x")
        old = await store.put("1-old", b"x")
        async with keeper(nc, registry):
            for body in RUBBISH:
                await nc.publish("results.", body) if not body else await nc.publish("results.a.b.c", body)
            await client.jobs.submit("echo", {"text": "x"}, job_id="waits", after=["never"], ttl_s=60)

            async def swept() -> bool:
                left = [entry.name for entry in await store.list(ignore_deletes=True)]
                return old.name not in left

            await eventually(swept, what="the expired payload is dropped")


class TestWorker:
    async def test_jobs_whose_result_cannot_be_read_or_that_no_input_fits_end(
        self, client: AutopilotClient, nats_server: NatsServer
    ) -> None:
        await client.js.publish("results.taken", b"not json")
        await client.js.publish("jobs.echo.normal.taken", b'{"payload": {"text": "x"}}')
        for number, body in enumerate(RUBBISH):
            await client.js.publish(f"jobs.echo.high.rubbish-{number}", body)
        kv = await client.js.key_value("jobs")
        async with worker_process(nats_server.url, AUTOPILOT_POOL_KINDS='["echo"]') as worker:
            for body in RUBBISH:
                await kv.put("x", body)
            handle = await client.jobs.submit("echo", {"text": "still here"})
            assert (await handle.wait(20)).status == "succeeded"
            await eventually(lambda: empty(client.js, "JOBS"), 20, what="no job left")
            assert worker.returncode is None

    async def test_what_it_cannot_store_ends_the_job_and_not_the_worker(
        self, client: AutopilotClient, nats_server: NatsServer
    ) -> None:
        """A job that waits for a time is handed on, and with what it gets on the way it is too large for the server."""
        until = (utc_now() + timedelta(hours=1)).isoformat()
        text = "x" * (2**20 - 100 - len(json.dumps({"payload": {"text": ""}, "not_before": until})))
        body = json.dumps({"payload": {"text": text}, "not_before": until}).encode()
        await client.js.publish("jobs.echo.normal.large", body)
        async with worker_process(nats_server.url, AUTOPILOT_POOL_KINDS='["echo"]'):
            handle = await client.jobs.submit("echo", {"text": "small"})
            assert (await handle.wait(20)).status == "succeeded"
            ended = await result(client, "large")
        assert ended.status == "failed"


async def test_a_notifier_puts_aside_what_is_no_alert(nats_server: NatsServer, client: AutopilotClient) -> None:
    app = create_notifier(NotifierSettings(nats_url=nats_server.url, webhook_private_targets=True))
    async with running(app):
        subscription = await client.alerts.subscribe("http://127.0.0.1:1/x")
        for body in RUBBISH:
            await client.js.publish("alerts.critical.n1.gpu-0", body)
        await client.js.publish("alerts.critical.n1.gpu-0", alert(node="n2").model_dump_json().encode())

        async def aside() -> bool:
            return len(await client.dead.put_aside()) == len(RUBBISH) + 1

        await eventually(aside, 20, what="all put aside")
        letters = await client.dead.put_aside()
        assert {letter.consumer for letter in letters} == {durable_name(subscription.id)}
        reply = await client.alerts.deliver(subscription.id)
        assert not reply.ok

        async def moves() -> bool:
            info = await client.js.consumer_info("ALERTS", f"notifier-{subscription.id}")
            return not info.num_pending and not info.num_ack_pending

        await eventually(moves, 20, what="nothing left in the consumer")
    rows = set_aside_rows(letters)
    assert [row["subject"] for row in rows] == [letter.subject for letter in letters]
    assert "not json" not in str(rows), "what a message said is nobody's business"


class TestGateway:
    async def test_rubbish_on_the_subjects_that_it_hears_is_counted(
        self, client: AutopilotClient, nats_server: NatsServer, tmp_path: Path
    ) -> None:
        app = gateway_app(nats_server.url, tmp_path)
        async with app.router.lifespan_context(app):
            reading = asyncio.ensure_future(anext(app.state.alerts.listen()))
            await asyncio.sleep(0.3)
            for body in (*RUBBISH, alert(node="n2").model_dump_json().encode()):
                await client.nc.publish("alerts.critical.n1.gpu-0", body)
                await client.nc.publish("results.x.y.z", body)
            fine = alert()
            subject = subjects.alert(fine.severity, fine.node, fine.device)
            await client.nc.publish(subject, fine.model_dump_json().encode())
            assert json.loads(await asyncio.wait_for(reading, 10))["id"] == fine.id


def test_poison_is_kept_for_days_within_a_bound() -> None:
    (config,) = [stream for stream in streams.STREAMS if stream.name == "POISON"]
    assert (config.max_age, config.max_bytes) == (7 * streams.DAY_S, 64 * streams.MIB)
    assert config.discard is None or config.discard.value == "old"

"""The queue where room, time or the broker run out: what was confirmed still ends as one result with a reason."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from nats.js import JetStreamContext
from prometheus_client import CollectorRegistry

from accelerator_autopilot.client import AutopilotClient
from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.errors import BusyError, UnavailableError
from accelerator_autopilot.contracts.messages.jobs import Job, JobResult, PoolStatus, WorkerStatus
from accelerator_autopilot.inference.jobs.dead_lettering import DeadLettering
from accelerator_autopilot.inference.pool.application.stream_usage import StreamUsage
from accelerator_autopilot.inference.pool.application.unschedulable_jobs import UnschedulableJobs
from accelerator_autopilot.runtime.bus import Bus
from accelerator_autopilot.transport.clock import utc_now
from accelerator_autopilot.transport.payload_store import load_payload
from accelerator_autopilot.transport.result_publishing import publish_result
from tests.conftest import NatsServer
from tests.support.poison import poison_rule
from tests.support.waiting import eventually
from tests.support.worker import worker_process

pytestmark = [pytest.mark.nats, pytest.mark.timeout(90)]

ECHO = {"AUTOPILOT_POOL_KINDS": '["echo"]'}


async def resize(js: JetStreamContext, stream: str, max_bytes: int) -> None:
    config = (await js.stream_info(stream)).config
    await js.update_stream(replace(config, max_bytes=max_bytes))


async def messages(js: JetStreamContext, stream: str) -> int:
    return (await js.stream_info(stream)).state.messages


async def tell_pool(js: JetStreamContext, *kinds: str, workers: int = 1) -> None:
    status = WorkerStatus(worker="w1", device="cpu-0", pid=1, state="ready", started_at=utc_now())
    pool = PoolStatus(pool="default", node="n1", at=utc_now(), desired=1, kinds=list(kinds), workers=[status] * workers)
    await (await js.key_value("pools")).put("default.n1", pool.model_dump_json().encode())


def a_result(job_id: str) -> tuple[JobResult, bytes]:
    result = JobResult(job_id=job_id, kind="echo", status="succeeded", submitted_at=utc_now(), finished_at=utc_now())
    return result, result.model_dump_json().encode()


class TestFull:
    async def test_a_full_stream_is_not_taken_for_a_result_that_is_there(self, client: AutopilotClient) -> None:
        await resize(client.js, "RESULTS", 4096)
        first, body = a_result("first")
        assert await publish_result(client.js, first, body, 3600)
        assert not await publish_result(client.js, first, body, 3600), "it has one"
        with pytest.raises(BusyError, match="the result of job large was not stored because the stream is full"):
            await publish_result(client.js, a_result("large")[0], b"x" * 5000, 3600)
        assert not await publish_result(client.js, first, body, 3600), "also while the stream is full"

    async def test_finished_jobs_wait_until_their_results_can_be_stored(
        self, client: AutopilotClient, nats_server: NatsServer
    ) -> None:
        await resize(client.js, "RESULTS", 32 * 1024)
        count = 80
        for i in range(count):
            await client.jobs.submit("echo", {"text": "x" * 1024}, job_id=f"j{i}")
        async with worker_process(nats_server.url, **ECHO):
            await eventually(lambda: self.stands(client.js), 20, what="RESULTS is full")
            await asyncio.sleep(1)
            stored, queued = await messages(client.js, "RESULTS"), await messages(client.js, "JOBS")
            assert stored + queued >= count, "no job has left the queue without its result"
            await resize(client.js, "RESULTS", 2**20)
            results = [await client.jobs.wait(f"j{i}", 40) for i in range(count)]
            await eventually(lambda: self.empty(client.js), what="no job left")
        assert {r.status for r in results} == {"succeeded"}

    async def stands(self, js: JetStreamContext) -> bool:
        state = (await js.stream_info("RESULTS")).state
        return state.bytes > 28 * 1024

    async def empty(self, js: JetStreamContext) -> bool:
        return await messages(js, "JOBS") == 0

    async def test_submitting_to_a_full_queue_says_so(self, client: AutopilotClient) -> None:
        await resize(client.js, "JOBS", 4096)
        with pytest.raises(BusyError, match="stream is full"):
            for _ in range(10):
                await client.jobs.submit("echo", {"text": "x" * 1000})
        with pytest.raises(BusyError, match="stream is full"):
            await client.batches.map("echo", [{"text": "x" * 1000}] * 10)

    async def test_payloads_without_room_are_refused_in_the_same_way(self, client: AutopilotClient) -> None:
        await resize(client.js, "OBJ_payloads", 2**19)
        with pytest.raises(BusyError, match=r"payloads/.* was not stored because the stream is full"):
            await client.jobs.submit("echo", {"text": "x" * 2**20})
        assert await messages(client.js, "JOBS") == 0

    async def runs(self, client: AutopilotClient, job_id: str) -> bool:
        info = await client.js.consumer_info("JOBS", "pool-echo-normal")
        return info.num_ack_pending == 1


class TestFrozen:
    async def test_a_result_outlives_a_broker_that_stands_still(
        self, client: AutopilotClient, nats_server: NatsServer
    ) -> None:
        async with worker_process(nats_server.url, **ECHO):
            handle = await client.jobs.submit("echo", {"text": "x", "work_s": 1.0})
            await eventually(lambda: TestFull().runs(client, handle.id))
            nats_server.freeze()
            await asyncio.sleep(7)
            nats_server.thaw()
            result = await handle.wait(30)
            assert (result.status, result.attempt) == ("succeeded", 1)
            await eventually(lambda: TestFull().empty(client.js), 30, what="no job left")


class TestEverythingEnds:
    async def test_one_dead_letter_however_long_there_is_no_room_for_the_result(self, client: AutopilotClient) -> None:
        dead, js = DeadLettering(client.js, "w1"), client.js
        config = (await js.stream_info("DEAD")).config
        await js.update_stream(replace(config, duplicate_window=0.2))
        await resize(js, "RESULTS", 1)
        job = Job(id="j1", kind="echo", priority="normal", payload={"text": "x"}, submitted_at=utc_now())
        for _ in range(3):
            with pytest.raises(UnavailableError):
                await dead.dead_letter(job, "invalid", [dead.reason("InvalidInputError", "no")], "jobs.echo.normal.j1")
            await asyncio.sleep(0.4)
        await resize(js, "RESULTS", 1 << 20)
        await dead.dead_letter(job, "invalid", [dead.reason("InvalidInputError", "no")], "jobs.echo.normal.j1")
        assert await messages(js, "DEAD") == await messages(js, "RESULTS") == 1

    async def sweep(self, js: JetStreamContext, undeliverable: UnschedulableJobs | None = None) -> None:
        undeliverable = undeliverable or UnschedulableJobs(js, DeadLettering(js, "janitor"), poison_rule(js), 0.0)
        await undeliverable.sweep(utc_now() + timedelta(seconds=1))

    async def test_a_bare_job_of_an_unknown_kind_keeps_its_input(self, client: AutopilotClient) -> None:
        js = client.js
        await tell_pool(js, "echo")
        for text in ("first", "second"):
            await js.publish("jobs.nope.normal", json.dumps({"payload": {"text": text}}).encode())
        await self.sweep(js)
        letters = await client.dead.list("nope")
        inputs = [await load_payload(js, d.job.payload_ref) for d in letters if d.job and d.job.payload_ref]
        assert sorted(i["text"] for i in inputs) == ["first", "second"]
        assert await messages(js, "JOBS") == 0
        result = await client.jobs.find_result("seq-1")
        assert result is not None
        assert "no pool runs 'nope'" in result.errors[-1].message

    async def test_a_priority_that_there_is_not_ends_that_job_and_holds_up_no_other(
        self, client: AutopilotClient
    ) -> None:
        js = client.js
        await tell_pool(js, "echo")
        await js.publish("jobs.echo.urgent.u", b'{"payload": {"text": "x"}}')
        await js.publish("jobs.nope.normal.n", b'{"payload": {"text": "y"}}')
        await js.publish("jobs.echo.normal.fine", b'{"payload": {"text": "z"}}')
        await self.sweep(js)
        urgent, unknown = await client.jobs.find_result("u"), await client.jobs.find_result("n")
        assert urgent is not None
        assert unknown is not None
        assert urgent.status == "failed"
        assert urgent.errors[-1].message == "priority: 'urgent' is none of high, normal, low"
        (letter,) = await client.dead.list("echo")
        assert (letter.id, letter.reason, letter.job is not None and letter.job.payload_ref is not None) == (
            "u", "invalid", True,
        )  # fmt: skip
        assert list((await js.stream_info("JOBS", subjects_filter=">")).state.subjects or {}) == [
            "jobs.echo.normal.fine"
        ]

    async def test_a_pool_that_is_away_for_a_moment_loses_no_job(self, client: AutopilotClient) -> None:
        await tell_pool(client.js, "other")
        await client.jobs.submit("echo", {}, job_id="waits")
        patient = UnschedulableJobs(client.js, DeadLettering(client.js, "janitor"), poison_rule(client.js), 60.0)
        await patient.sweep(utc_now() + timedelta(hours=1))
        assert await messages(client.js, "JOBS") == 1, "it is old, but its pool has only just gone"

    async def test_no_job_ends_while_the_bucket_of_pools_lags_behind(self, client: AutopilotClient) -> None:
        js = client.js
        await client.jobs.submit("echo", {}, job_id="waits")
        own = UnschedulableJobs(js, DeadLettering(js, "janitor"), poison_rule(js), 0.0, own_pool="default.here")
        await own.sweep(utc_now() + timedelta(hours=1))
        assert await messages(js, "JOBS") == 1, "the pool of this very process is not seen: what is seen is old"

    async def test_what_no_worker_takes_in_time_ends_with_a_reason(self, client: AutopilotClient) -> None:
        js = client.js
        await tell_pool(js, "echo", workers=0)
        await client.jobs.submit("echo", {"text": "x"}, job_id="late", ttl_s=0.001)
        await client.jobs.submit("echo", {"text": "x"}, job_id="early")
        await js.publish("jobs.echo.low.rubbish", b"not json")
        await self.sweep(js)
        late = await client.jobs.find_result("late")
        assert late is not None
        assert (late.status, late.errors[-1].type) == ("failed", "expired")
        assert "ttl_s" in late.errors[-1].message
        assert "no worker took it" in late.errors[-1].message
        assert await client.jobs.find_result("early") is None
        await UnschedulableJobs(js, DeadLettering(js, "janitor"), poison_rule(js), 0.0).sweep(
            utc_now() + timedelta(days=7, hours=13)
        )
        for name in ("early", "rubbish"):
            ended = await client.jobs.find_result(name)
            assert ended is not None
            assert ended.errors[-1].message
        assert await messages(js, "JOBS") == 0

    async def test_a_malformed_body_gets_a_failed_result_under_the_id_of_its_subject(
        self, client: AutopilotClient, nats_server: NatsServer
    ) -> None:
        await client.js.publish("jobs.echo.normal.u-2", b"not json")
        ack = await client.js.publish("jobs.echo.normal", b'{"max_attempts": 0, "payload": {"text": "SECRET"}}')
        async with worker_process(nats_server.url, **ECHO):
            named, unnamed = await client.jobs.wait("u-2", 20), await client.jobs.wait(f"seq-{ack.seq}", 20)
        assert named.status == unnamed.status == "failed"
        assert "the message is not a valid job" in named.errors[-1].message
        assert "max_attempts" in unnamed.errors[-1].message
        assert "SECRET" not in unnamed.model_dump_json()
        assert {d.id for d in await client.dead.list()} == {"u-2", f"seq-{ack.seq}"}

    async def test_a_bare_job_published_twice_runs_once(self, client: AutopilotClient, nats_server: NatsServer) -> None:
        async with worker_process(nats_server.url, **ECHO):
            told = await client.nc.subscribe(subjects.progress("u-3"))
            for _ in range(2):
                await client.js.publish("jobs.echo.normal.u-3", b'{"payload": {"text": "a", "work_s": 0.1}}')
                await client.jobs.wait("u-3", 20)
            await eventually(lambda: TestFull().empty(client.js), what="no job left")
        assert told.pending_msgs <= 1

    @pytest.mark.parametrize("late", ["ttl", "deadline"])
    async def test_a_job_that_came_too_late_says_why(
        self, client: AutopilotClient, nats_server: NatsServer, late: str
    ) -> None:
        options: dict[str, Any] = (
            {"ttl_s": 0.001} if late == "ttl" else {"deadline_at": utc_now() - timedelta(minutes=1)}
        )
        handle = await client.jobs.submit("echo", {}, **options)
        async with worker_process(nats_server.url, **ECHO):
            result = await handle.wait(20)
        assert (result.status, result.errors[-1].type) == ("failed", "expired")
        assert ("ttl_s" if late == "ttl" else "deadline") in result.errors[-1].message


class TestStreamWatch:
    async def test_a_stream_that_fills_is_an_alert_until_there_is_room_again(self, client: AutopilotClient) -> None:
        bus = Bus(client.js)
        registry = CollectorRegistry()
        watch = StreamUsage(client.js, bus, registry, lambda: True)
        await resize(client.js, "RESULTS", 10_000)
        await watch.check()
        assert await client.alerts.open() == []
        for state, severity, size in (("opened", "warning", 8_300), ("updated", "critical", 1_400)):
            result, _ = a_result(state)
            await publish_result(client.js, result, b"x" * size, 3600)
            await watch.check()
            (alert,) = await client.alerts.open()
            assert (alert.device, alert.kind, alert.state, alert.severity) == (
                "stream RESULTS", "stream_full", state, severity,
            )  # fmt: skip
            assert "AUTOPILOT_RESULTS_MIB" in alert.action
        filled = registry.get_sample_value("autopilot_stream_fill_ratio", {"stream": "RESULTS"})
        assert filled is not None
        assert filled > 0.95
        await resize(client.js, "RESULTS", 2**20)
        await watch.check()
        assert await client.alerts.open() == []
        told = await client.js.stream_info("ALERTS")
        assert told.state.messages == 3

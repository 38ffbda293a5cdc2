"""The queue's promises on a real nats-server with real workers."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path

import nats
import pytest
from nats.aio.client import Client
from nats.js.errors import NotFoundError

from accelerator_autopilot.client import AutopilotClient
from accelerator_autopilot.contracts import streams, subjects
from accelerator_autopilot.contracts.errors import ConflictError, InvalidInputError, JobFailedError
from accelerator_autopilot.contracts.messages.jobs import JobResult, PoolStatus, WorkerStatus
from accelerator_autopilot.deploy.local.instance import take_port
from accelerator_autopilot.deploy.local.servers import nats_binary, wait_for_port, write_nats_config
from accelerator_autopilot.inference.pool.application.queue_maintenance import QueueMaintenance
from accelerator_autopilot.inference.worker.application.worker_state import RESTART
from accelerator_autopilot.runtime.leader_election import LeaderElection
from accelerator_autopilot.transport import stream_setup
from accelerator_autopilot.transport.clock import utc_now
from accelerator_autopilot.transport.payload_store import sweep_payloads
from tests.chaos.soak.proxy import LinkProxy, tcp_target
from tests.conftest import NatsServer
from tests.support.poison import poison_rule
from tests.support.waiting import eventually
from tests.support.worker import worker_process

pytestmark = [pytest.mark.nats, pytest.mark.timeout(90)]

ECHO = {"AUTOPILOT_POOL_KINDS": '["echo"]'}


@asynccontextmanager
async def keeper(nc: Client, unrunnable_after_s: float = 60.0) -> AsyncIterator[QueueMaintenance]:
    """The queue's keeper, as a pool runs it."""
    js = nc.jetstream()
    await stream_setup.ensure_consumer(js, "JOBS", streams.waiting_durable())
    await stream_setup.ensure_consumer(js, "LATER", streams.due_durable())
    keeping = QueueMaintenance(nc, js, LeaderElection(js, "test", "queue"), poison_rule(js), unrunnable_after_s)
    task = asyncio.create_task(keeping.run())
    try:
        yield keeping
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def tell_pool(client: AutopilotClient, **worker: object) -> None:
    """A pool's status, as its supervisor tells it."""
    status = WorkerStatus(worker="w1", device="cpu-0", pid=1, state="ready", started_at=utc_now(), **worker)
    pool = PoolStatus(
        pool="default", node="n1", at=utc_now(), desired=1, kinds=["echo"], models=["m1"], workers=[status]
    )
    kv = await client.js.key_value("pools")
    await kv.put("default.n1", pool.model_dump_json().encode())


async def drained(client: AutopilotClient) -> None:
    """A worker acknowledges a job after its result was told."""

    async def empty() -> bool:
        return (await client.js.stream_info("JOBS")).state.messages == 0

    await eventually(empty, what="no job left in JOBS")


class TestOrder:
    async def test_urgent_jobs_go_first_and_low_ones_are_not_starved(
        self, client: AutopilotClient, nats_server: NatsServer
    ) -> None:
        for i in range(60):
            await client.jobs.submit("echo", {"work_s": 0.02}, job_id=f"low-{i}", priority="low")
            await client.jobs.submit("echo", {"work_s": 0.02}, job_id=f"high-{i}", priority="high")
        async with worker_process(nats_server.url, AUTOPILOT_BATCH_BUDGET_S="0.01", **ECHO):
            await client.jobs.wait("high-59", 30)
            views = await client.jobs.finished(1000)
        done = [v.id.split("-")[0] for v in views]
        assert 1 <= done.count("low") <= 20
        assert done.count("high") == 60

    async def test_no_submitter_waits_for_all_of_anothers_jobs(
        self, client: AutopilotClient, nats_server: NatsServer
    ) -> None:
        for i in range(20):
            await client.jobs.submit("echo", {}, job_id=f"many-{i}", submitter="many")
        await client.jobs.submit("echo", {}, job_id="few-0", submitter="few")
        async with worker_process(nats_server.url, **ECHO):
            await asyncio.gather(*(client.jobs.wait(f"many-{i}", 20) for i in range(20)), client.jobs.wait("few-0", 20))


class TestTime:
    async def test_a_delayed_job_runs_when_its_time_has_come(
        self, client: AutopilotClient, nc: Client, nats_server: NatsServer
    ) -> None:
        async with keeper(nc), worker_process(nats_server.url, **ECHO):
            began = utc_now()
            handle = await client.jobs.submit("echo", {"text": "later"}, delay_s=2)
            assert (await client.jobs.view(handle.id)).state == "scheduled"
            assert [v.state for v in await client.jobs.queued()] == ["scheduled"]
            result = await handle.wait(20)
        assert result.status == "succeeded"
        assert result.started_at is not None
        assert result.started_at - began >= timedelta(seconds=1.99)

    async def test_a_scheduled_job_can_be_cancelled(self, client: AutopilotClient, nc: Client) -> None:
        handle = await client.jobs.submit("echo", {}, delay_s=3600)
        assert (await client.jobs.cancel(handle.id)).status == "cancelled"
        assert (await client.js.stream_info("LATER")).state.messages == 0
        assert (await handle.wait(5)).status == "cancelled"
        with pytest.raises(ConflictError):
            await client.jobs.cancel(handle.id)

    async def test_a_job_past_its_deadline_is_not_run(self, client: AutopilotClient, nats_server: NatsServer) -> None:
        handle = await client.jobs.submit("echo", {}, deadline_at=utc_now() - timedelta(seconds=1))
        async with worker_process(nats_server.url, **ECHO):
            assert (await handle.wait(20)).status == "failed"
        (letter,) = await client.dead.list()
        assert letter.reason == "expired"


class TestDependencies:
    async def test_a_result_feeds_the_next(self, client: AutopilotClient, nc: Client, nats_server: NatsServer) -> None:
        async with keeper(nc), worker_process(nats_server.url, **ECHO):
            await client.jobs.submit("echo", {"text": {"$result": "first", "select": "text"}}, job_id="second")
            await client.jobs.submit("echo", {"text": {"$result": "second", "select": "text"}}, job_id="third")
            assert (await client.jobs.view("third")).state == "waiting"
            await client.jobs.submit("echo", {"text": "from the first"}, job_id="first")
            assert await client.jobs.output("third", 20) == {"text": "from the first"}
            await drained(client)

    async def test_what_waits_for_a_failed_job_fails_with_it(
        self, client: AutopilotClient, nc: Client, nats_server: NatsServer
    ) -> None:
        async with keeper(nc), worker_process(nats_server.url, **ECHO):
            await client.jobs.submit("echo", {"fail": "permanently"}, job_id="first")
            await client.jobs.submit("echo", {}, job_id="second", after=["first"])
            with pytest.raises(JobFailedError, match="job first failed"):
                await client.jobs.output("second", 20)
        assert {d.reason for d in await client.dead.list()} == {"permanent_error", "dependency_failed"}

    async def test_a_job_cannot_wait_for_itself(self, client: AutopilotClient) -> None:
        with pytest.raises(InvalidInputError, match="cannot wait for itself"):
            await client.jobs.submit("echo", {}, job_id="me", after=["me"])

    async def test_a_bare_publisher_may_name_dependencies_too(
        self, client: AutopilotClient, nc: Client, nats_server: NatsServer
    ) -> None:
        async with keeper(nc), worker_process(nats_server.url, **ECHO):
            body = {"payload": {"text": {"$result": "first", "select": "text"}}, "after": ["first"]}
            await client.js.publish("jobs.echo.normal.second", json.dumps(body).encode())
            await eventually(lambda: self.waits(client, "second"))
            await client.js.publish("jobs.echo.normal.first", b'{"payload": {"text": "bare"}}')
            assert await client.jobs.output("second", 20) == {"text": "bare"}

    async def test_a_slow_link_does_not_set_the_pace_of_many_that_wait(
        self, client: AutopilotClient, nats_server: NatsServer
    ) -> None:
        # One after the other they would take three answers each, 0.4 s apart: half a minute, and redelivery meanwhile.
        many = 40
        for i in range(many):
            await client.jobs.submit("echo", {}, job_id=f"waits-{i}", after=["first"])
        now = utc_now()
        result = JobResult(job_id="first", kind="echo", status="succeeded", submitted_at=now, finished_at=now)
        link = LinkProxy(tcp_target(nats_server.port))
        await link.start()
        slow = await nats.connect(f"nats://127.0.0.1:{link.port}")
        try:
            async with keeper(slow):
                link.set("slow")

                async def taken() -> bool:
                    return (await client.js.consumer_info("JOBS", "keeper-waiting")).num_ack_pending == many

                await eventually(taken, 20, what="the keeper has them all")
                await client.js.publish(subjects.result("first"), result.model_dump_json().encode())

                async def let_go() -> bool:
                    held = (await client.js.stream_info("JOBS", subjects_filter=subjects.WAITING)).state.subjects
                    return not held

                await eventually(let_go, 12, what="none waits any more")
                link.set("fine")
        finally:
            await slow.close()
            await link.stop()

    async def waits(self, client: AutopilotClient, job_id: str) -> bool:
        return (await client.jobs.view(job_id)).state == "waiting"


class TestNeeds:
    async def test_a_job_that_no_worker_can_run_says_so(self, client: AutopilotClient, nats_server: NatsServer) -> None:
        await tell_pool(client, memory_bytes=8 * 2**30)
        async with worker_process(nats_server.url, AUTOPILOT_DEVICE_MEMORY_BYTES=str(8 * 2**30), **ECHO):
            handle = await client.jobs.submit("echo", {}, needs={"memory_bytes": 80 * 2**30})
            with pytest.raises(JobFailedError, match="no worker can run it: it needs 85899345920 bytes"):
                await client.jobs.output(handle.id, 20)
            handle = await client.jobs.submit("echo", {}, needs={"model": "m9"})
            with pytest.raises(JobFailedError, match="model 'm9' is not offered"):
                await client.jobs.output(handle.id, 20)
            fits = await client.jobs.submit("echo", {"text": "x"}, needs={"memory_bytes": 2**30, "device": "cpu"})
            assert (await fits.wait(20)).status == "succeeded"
        assert {d.reason for d in await client.dead.list()} == {"nobody_can_run"}

    async def test_a_kind_that_no_pool_runs_does_not_wait_for_ever(self, client: AutopilotClient, nc: Client) -> None:
        await tell_pool(client)
        handle = await client.jobs.submit("make-coffee", {"cups": 2})
        async with keeper(nc, unrunnable_after_s=0.5):
            with pytest.raises(JobFailedError, match="no pool runs 'make-coffee'; there are echo"):
                await client.jobs.output(handle.id, 30)
            await drained(client)

    async def test_a_job_goes_to_the_worker_that_fits(self, client: AutopilotClient, nats_server: NatsServer) -> None:
        small = worker_process(nats_server.url, "small", AUTOPILOT_DEVICE_MEMORY_BYTES="1000", **ECHO)
        large = worker_process(nats_server.url, "large", AUTOPILOT_DEVICE_MEMORY_BYTES="9000", **ECHO)
        await tell_pool(client, memory_bytes=9000)
        async with small, large:
            handles = [await client.jobs.submit("echo", {}, needs={"memory_bytes": 5000}) for _ in range(6)]
            results = [await h.wait(30) for h in handles]
        assert {r.worker for r in results} == {"large"}


class TestDeadLetters:
    async def test_a_dead_job_gets_another_life(self, client: AutopilotClient, nats_server: NatsServer) -> None:
        async with worker_process(nats_server.url, **ECHO):
            handle = await client.jobs.submit("echo", {"fail": "permanently", "text": "secret"}, priority="high")
            assert (await handle.wait(20)).status == "failed"
            (letter,) = await client.dead.list("echo")
            assert letter.job is not None
            assert letter.job.payload == {}
            again = await client.dead.replay(handle.id)
            assert again.id != handle.id
            assert (await again.wait(20)).status == "failed"
            assert (await client.dead.replay(handle.id)).id == again.id


class TestPrivacy:
    async def test_nothing_of_a_job_is_left_when_its_time_is_over(
        self, client: AutopilotClient, nats_server: NatsServer, tmp_path: Path
    ) -> None:
        secret = "the patient is Ada Lovelace"
        large = {"text": secret + "x" * 400_000}
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        async with worker_process(nats_server.url, AUTOPILOT_SCRATCH_DIR=str(scratch), **ECHO):
            handles = [
                await client.jobs.submit("echo", {"text": secret}, result_ttl_s=1),
                await client.jobs.submit("echo", large, result_ttl_s=1),
                await client.jobs.submit("echo", large | {"fail": "permanently"}, result_ttl_s=1, ttl_s=1),
            ]
            for handle in handles:
                await handle.wait(20)

            async def gone() -> bool:
                await sweep_payloads(client.js, utc_now() + timedelta(seconds=61))
                return not [h for h in handles if await client.jobs.find_result(h.id)]

            await eventually(gone, 20)
        store = await client.js.object_store("payloads")
        with pytest.raises(NotFoundError):
            await store.list(ignore_deletes=True)
        for name in ("JOBS", "RESULTS", "DEAD", "OBJ_payloads"):
            for seq in range(1, (await client.js.stream_info(name)).state.last_seq + 1):
                try:
                    message = await client.js.get_msg(name, seq)
                except NotFoundError:
                    continue
                assert secret.encode() not in (message.data or b""), name
        assert not list(scratch.iterdir())

    async def test_logs_hold_nothing_of_a_job(self, client: AutopilotClient, nats_server: NatsServer) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "accelerator_autopilot.inference", "worker",
            env=os.environ | ECHO | {"AUTOPILOT_NATS_URL": nats_server.url, "AUTOPILOT_LOG_LEVEL": "DEBUG"},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, stdin=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        for payload in ({"text": "sesame"}, {"text": "sesame", "fail": "always"}, {"sesame": 1}):
            await (await client.jobs.submit("echo", payload, max_attempts=1)).wait(20)
        await client.js.publish("jobs.echo.normal", b"sesame")
        await eventually(lambda: self.emptied(client), 20)
        process.terminate()
        out, err = await process.communicate()
        assert b"attempt failed" in err
        assert b"sesame" not in out + err

    async def emptied(self, client: AutopilotClient) -> bool:
        return await client.fleet.queue_depth() == 0


class TestModels:
    @asynccontextmanager
    async def worker(self, nats_server: NatsServer, **settings: str) -> AsyncIterator[asyncio.subprocess.Process]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "accelerator_autopilot.inference", "worker",
            env=os.environ | settings | {
                "AUTOPILOT_NATS_URL": nats_server.url, "AUTOPILOT_POOL_KINDS": '["embed"]',
                "AUTOPILOT_MODEL_IDLE_S": "0.2",
            },
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL, stdin=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    async def test_a_worker_whose_models_lie_idle_begins_anew(
        self, client: AutopilotClient, nats_server: NatsServer
    ) -> None:
        async with self.worker(nats_server) as process:
            handle = await client.jobs.submit("embed", {"texts": ["x"]})
            assert (await handle.wait(30)).status == "succeeded"
            assert await asyncio.wait_for(process.wait(), 20) == RESTART

    async def test_models_that_are_kept_warm_stay(self, client: AutopilotClient, nats_server: NatsServer) -> None:
        async with self.worker(nats_server, AUTOPILOT_PRELOAD_KINDS='["embed"]') as process:
            assert process.stdout is not None
            # A report every half second: ten times the idle time is over after these.
            reports = [json.loads(await asyncio.wait_for(process.stdout.readline(), 30)) for _ in range(5)]
            assert reports[0]["models"] == ["all-MiniLM-L6-v2"]
            assert process.returncode is None
            handle = await client.jobs.submit("embed", {"texts": ["x"]})
            assert (await handle.wait(30)).status == "succeeded"


class TestRawContract:
    async def test_a_publisher_that_imports_nothing_of_ours(
        self, client: AutopilotClient, nats_server: NatsServer
    ) -> None:
        """The contract of docs/reference/nats-protocol.md, over a bare socket in NATS' own text protocol."""
        async with worker_process(nats_server.url, **ECHO):
            reader, writer = await asyncio.open_connection("127.0.0.1", nats_server.port)
            assert (await reader.readline()).startswith(b"INFO")
            body = b'{"payload": {"text": "from a socket"}}'
            writer.write(b'CONNECT {"verbose":false,"headers":true}\r\nSUB results.sock-1 1\r\nSUB _INBOX.me 2\r\n')
            writer.write(b"PUB jobs.echo.high.sock-1 _INBOX.me %d\r\n%b\r\n" % (len(body), body))
            seen: dict[bytes, dict[str, object]] = {}
            async with asyncio.timeout(20):
                while len(seen) < 2:
                    line = await reader.readline()
                    if line.startswith((b"MSG", b"HMSG")):
                        parts = line.split()
                        data = await reader.readexactly(int(parts[-1]) + 2)
                        seen[parts[1]] = json.loads(data[data.index(b"{") :])
                    elif line.startswith(b"PING"):
                        writer.write(b"PONG\r\n")
            writer.close()
        assert seen[b"_INBOX.me"]["stream"] == "JOBS"
        assert seen[b"results.sock-1"]["output"] == {"text": "from a socket"}


def test_ids_and_subjects_go_both_ways() -> None:
    for job_id in ("plain", "batch.7", "a.b.c", ".x", "x.", "with space", "ü.ß"):
        tokens = subjects.result(job_id).split(".")[1:]
        assert subjects.job_id(tokens) == job_id


async def test_with_a_key_the_brokers_disk_holds_nothing_readable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "the patient is Ada Lovelace"
    for key in ("", "a-long-random-key-of-the-operator"):
        monkeypatch.setenv("AUTOPILOT_NATS_STORE_KEY", key)
        folder = tmp_path / (key[:6] or "plain")
        port = take_port(0, "nats")
        config = write_nats_config(folder, port, "u", "p")
        server = subprocess.Popen([nats_binary(), "-c", str(config)], stderr=subprocess.DEVNULL)
        try:
            await wait_for_port(port)
            connection = await nats.connect(f"nats://u:p@127.0.0.1:{port}")
            await stream_setup.ensure(connection.jetstream())
            await connection.jetstream().publish(
                "jobs.echo.normal.x", json.dumps({"payload": {"text": secret}}).encode()
            )
            await connection.close()
        finally:
            server.terminate()
            server.wait()
        kept = any(secret.encode() in f.read_bytes() for f in folder.rglob("*") if f.is_file())
        assert kept == (key == "")
        assert not any(key.encode() in f.read_bytes() for f in folder.rglob("*") if f.is_file() and key)

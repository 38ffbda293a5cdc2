"""What programs import, against a server with a worker."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import subprocess
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import pytest
from nats.aio.client import Client as Nats

import accelerator_autopilot as ap
from accelerator_autopilot.client import AutopilotClient
from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.frames import encode
from accelerator_autopilot.contracts.messages.commands import CommandOutcome
from accelerator_autopilot.contracts.messages.telemetry import NodeInventory
from accelerator_autopilot.deploy.local.instance import take_port
from accelerator_autopilot.deploy.local.servers import nats_binary, wait_for_port
from accelerator_autopilot.transport.clock import utc_now
from tests.conftest import NatsServer
from tests.support.builders import T0, alert, device, frame
from tests.support.waiting import eventually
from tests.support.worker import worker_process

pytestmark = pytest.mark.nats
KINDS = {"AUTOPILOT_POOL_KINDS": json.dumps(["echo", "detect-anomalies"]), "AUTOPILOT_RUN_AS": "root"}


@pytest.fixture
async def worker(nats_server: NatsServer, nc: Nats) -> AsyncIterator[str]:
    async with worker_process(nats_server.url, **KINDS):
        yield nats_server.url


@pytest.fixture
async def fleet(nats_server: NatsServer, nc: Nats) -> AsyncIterator[ap.AsyncClient]:
    async with ap.connect_async(nats_server.url, actor="tester") as connected:
        yield connected


async def in_thread(url: str, program: Callable[[ap.Client], Any]) -> Any:
    def run() -> Any:
        with ap.connect(url, actor="tester") as connected:
            return program(connected)

    return await asyncio.to_thread(run)


class TestBlocking:
    async def test_a_job_from_its_payload_to_its_result(self, worker: str) -> None:
        def program(fleet: ap.Client) -> None:
            assert fleet.echo("x", timeout=20) == ap.EchoResult(text="x")
            job = fleet.submit(ap.Echo(text="y", work_s=1.0), priority="high")
            assert {p.state for p in job.progress()} == {"running"}
            assert job.result(20).text == "y"
            assert fleet.job(job.id, ap.EchoResult).result(5) == job.result()
            assert job.details().worker == "w1"
            assert job.state().state == "succeeded"
            assert fleet.submit({"text": "z"}, kind="echo").result(20) == {"text": "z"}

        await in_thread(worker, program)

    async def test_many_jobs_in_order_and_as_they_come(self, worker: str) -> None:
        def program(fleet: ap.Client) -> None:
            batch = fleet.map((ap.Echo(text=str(i)) for i in range(20)), timeout=30)
            assert [one.text for one in batch] == [str(i) for i in range(20)]
            assert sorted(n for n, _ in batch.as_completed()) == list(range(20))
            assert all(one.text == str(number) for number, one in batch.as_completed())
            assert (batch.progress().finished, len(batch)) == (True, 20)
            assert fleet.batch(batch.id, ap.EchoResult).results()[3].text == "3"

        await in_thread(worker, program)

    async def test_one_that_fails_raises_or_is_one_of_the_outcomes(self, worker: str) -> None:
        def program(fleet: ap.Client) -> None:
            with pytest.raises(ap.JobFailedError, match="was asked to fail"):
                fleet.echo("x", fail="permanently", timeout=20)
            batch = fleet.map([ap.Echo(fail="permanently"), ap.Echo(text="b")], timeout=30)
            first, second = batch.outcomes()
            assert isinstance(first, ap.JobFailedError)
            assert second == ap.EchoResult(text="b")
            with pytest.raises(ap.JobFailedError):
                batch.results()

        await in_thread(worker, program)

    async def test_a_running_job_is_cancelled(self, worker: str) -> None:
        def program(fleet: ap.Client) -> None:
            job = fleet.submit(ap.Echo(work_s=60.0))
            assert next(job.progress()).state == "running"
            assert job.cancel()
            with pytest.raises(ap.JobCancelledError):
                job.result(5)
            with pytest.raises(TimeoutError, match="cancelled"):
                fleet.echo("x", work_s=60.0, timeout=0.5)
            batch = fleet.map([ap.Echo(work_s=60.0)] * 3)
            assert batch.cancel() == 3

        await in_thread(worker, program)

    async def test_progress_can_be_awaited_and_jobs_wait_with_others(self, worker: str) -> None:
        connected = await asyncio.to_thread(ap.connect, worker)
        try:
            job = await asyncio.to_thread(connected.submit, ap.Echo(text="x", work_s=1.0))
            assert [p async for p in job.progress()]
            assert (await job).text == "x"
            jobs = [await asyncio.to_thread(connected.submit, ap.Echo(text=t)) for t in "ab"]
            done, _ = await asyncio.to_thread(concurrent.futures.wait, jobs, 20)
            assert {job.result().text for job in done} == {"a", "b"}
        finally:
            await asyncio.to_thread(connected.close)


class TestAsynchronous:
    async def test_the_same_with_await(self, worker: str, fleet: ap.AsyncClient) -> None:
        assert await fleet.echo("x", timeout=20) == ap.EchoResult(text="x")
        job = await fleet.submit(ap.Echo(text="y", work_s=1.0), deadline=timedelta(minutes=5), keep_result=60)
        assert {p.state async for p in job.progress()} == {"running"}
        assert (await job).text == "y"
        batch = await fleet.map([ap.Echo(text=t) for t in "abc"])
        assert [r.text async for r in batch] == ["a", "b", "c"]
        told = [t async for t in fleet.stream(ap.Echo(text="z", work_s=1.0))]
        assert isinstance(told[0], ap.JobProgress)
        assert told[-1] == ap.EchoResult(text="z")
        table = await fleet.detect_anomalies(rows=[{"v": float(i % 3)} for i in range(30)] + [{"v": 99.0}], timeout=30)
        assert table.to_polars()["row"].to_list() == [30]

    async def test_the_same_key_is_the_same_job(self, worker: str, fleet: ap.AsyncClient) -> None:
        first = await fleet.submit(ap.Echo(text="x"), idempotency_key="k")
        again = await fleet.submit(ap.Echo(text="x"), idempotency_key="k")
        assert (again.id, again.duplicate) == (first.id, True)
        with pytest.raises(ap.ConflictError):
            await fleet.submit(ap.Echo(text="other"), idempotency_key="k")

    async def test_a_job_for_another_pool_is_not_run_here(self, worker: str, fleet: ap.AsyncClient) -> None:
        assert (await fleet.echo("x", pool="default", timeout=20)).text == "x"
        with pytest.raises(ap.JobFailedError, match="no pool"):
            await fleet.echo("x", pool="other", timeout=20)

    async def test_mixed_kinds_and_wrong_fields_are_refused(self, fleet: ap.AsyncClient) -> None:
        with pytest.raises(ap.InvalidInputError, match="one kind"):
            await fleet.map([ap.Echo(), ap.Embed(texts=["x"])])  # type: ignore[list-item]
        with pytest.raises(ap.InvalidInputError, match="max_attempts"):
            await fleet.submit(ap.Echo(), max_attempts=0)
        with pytest.raises(ap.NotFoundError):
            await fleet.job("no-such-job")

    async def test_a_result_whose_news_is_lost_is_found(
        self, fleet: ap.AsyncClient, client: AutopilotClient, nats_server: NatsServer
    ) -> None:
        job = await fleet.submit(ap.Echo(work_s=60.0))
        nats_server.freeze()
        await asyncio.sleep(0.1)
        nats_server.thaw()
        await client.jobs.cancel(job.id)
        with pytest.raises(ap.JobCancelledError):
            await job.result(10)

    async def test_waiting_ends_when_the_client_is_closed(self, nats_server: NatsServer, nc: Nats) -> None:
        fleet = await ap.connect_async(nats_server.url)
        job = await fleet.submit(ap.Echo())
        waiting = asyncio.create_task(job.result())
        await asyncio.sleep(0)
        await fleet.close()
        with pytest.raises(ap.UnavailableError, match="closed before"):
            await waiting


class TestFleet:
    async def seed(self, nc: Nats) -> None:
        kv = await nc.jetstream().key_value("inventory")
        for node in ("n1", "n2"):
            known = [device(device="gpu-0"), device(device=f"only-{node}")]
            inventory = NodeInventory(node=node, at=T0, period_s=1, devices=known)
            await kv.put(subjects.token(node), inventory.model_dump_json().encode())
            sent = frame(node=node, devices=("gpu-0",), start=utc_now() - timedelta(seconds=2), ticks=3, value=200.0)
            await nc.jetstream().publish(subjects.frames(node), encode(sent))

    async def test_devices_and_their_history(self, fleet: ap.AsyncClient, nc: Nats) -> None:
        await self.seed(nc)
        devices = await fleet.devices()
        assert devices.to_polars().select("node", "device").height == 4
        assert (await fleet.device("only-n2")).node == "n2"
        with pytest.raises(ap.InvalidInputError, match="n1/gpu-0, n2/gpu-0"):
            await fleet.device("gpu-0")
        with pytest.raises(ap.NotFoundError, match="only-n1"):
            await fleet.device("none")
        table = await fleet.history("n1/gpu-0", metrics=["power_w"], last=timedelta(minutes=1))
        assert len(table) == 3
        assert set(table.columns["power_w"].tolist()) == {200.0}
        assert len(await fleet.history()) == 6

    async def test_a_cap_tells_what_became_of_it(self, fleet: ap.AsyncClient, nc: Nats) -> None:
        await self.seed(nc)

        async def carry_out(message: Any) -> None:
            command = json.loads(message.data)
            outcome = CommandOutcome(
                id="o1", command_id=command["id"], command="power", target="n1/gpu-0", status="applied",
                requested=command["cap_w"], at=utc_now(), executor="agent",
            )  # fmt: skip
            await nc.jetstream().publish(subjects.outcome(command["id"]), outcome.model_dump_json().encode())

        await nc.subscribe("commands.power.>", cb=carry_out)
        outcome = await fleet.cap("n1/gpu-0", 250.0, lease=30)
        assert (outcome.status, outcome.requested) == ("applied", 250.0)
        with pytest.raises(TimeoutError, match="check that its agent or pool runs"):
            await fleet.drain("n1/gpu-0", timeout=0.2)
        assert {d.kind for d in await fleet.decisions()} == {"power", "drain"}

    async def test_the_policy_is_read_and_replaced(self, nats_server: NatsServer, nc: Nats) -> None:
        def program(fleet: ap.Client) -> None:
            policy = fleet.policy()
            fleet.set_policy(policy.model_copy(update={"mode": "observe"}))
            assert fleet.policy().mode == "observe"

        await in_thread(nats_server.url, program)

    async def test_alerts_are_followed(self, nats_server: NatsServer, nc: Nats, fleet: ap.AsyncClient) -> None:
        told = alert()

        def program(connected: ap.Client) -> ap.Alert:
            return next(connected.alerts.follow())

        following = asyncio.create_task(in_thread(nats_server.url, program))

        async def publish() -> bool:
            await nc.publish(subjects.alert(told.severity, told.node, told.device), told.model_dump_json().encode())
            return following.done()

        await eventually(publish, 10)
        assert (await following).id == told.id
        silence = await fleet.alerts.silence(timedelta(hours=1), node="n1")
        assert [s.id for s in await fleet.alerts.silences()] == [silence.id]
        await fleet.alerts.unsilence(silence)
        with pytest.raises(ap.NotFoundError):
            await fleet.alerts.acknowledge("none")


class TestWithoutAServer:
    def test_it_says_what_to_start(self) -> None:
        with pytest.raises(ap.UnavailableError, match=r"no NATS server answers .*`autopilot up`"):
            ap.connect("nats://user:secret@127.0.0.1:1", timeout=0.5)

    async def test_a_password_in_an_address_is_not_told(self) -> None:
        with pytest.raises(ap.UnavailableError) as told:
            await ap.connect_async("nats://user:secret@127.0.0.1:1", timeout=0.5)
        assert "secret" not in str(told.value)

    async def test_a_server_that_wants_a_token_says_so(self) -> None:
        port = take_port(0, "nats")
        command = [nats_binary(), "-a", "127.0.0.1", "-p", str(port), "--auth", "secret"]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            await wait_for_port(port)
            with pytest.raises(ap.UnavailableError, match="it wants a token"):
                await ap.connect_async(f"nats://127.0.0.1:{port}", timeout=0.5)
            async with ap.connect_async(f"nats://127.0.0.1:{port}", token="secret") as fleet:
                assert fleet.connected
        finally:
            server.kill()
            server.wait()

    async def test_a_server_without_our_streams_is_named(self, nats_server: NatsServer) -> None:
        async with ap.connect_async(nats_server.url) as fleet:
            with pytest.raises(ap.UnavailableError, match="autopilot up"):
                await fleet.decisions()
            with pytest.raises(ap.UnavailableError):
                await fleet.submit(ap.Echo())
            assert await fleet.devices() == []

    async def test_without_a_worker_waiting_says_so(self, fleet: ap.AsyncClient) -> None:
        with pytest.raises(TimeoutError, match=r"no worker runs 'echo'"):
            await fleet.echo("x", timeout=0.3)

"""Many jobs in one request: each tells how it ended, also those that could not succeed."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from accelerator_autopilot.client import AutopilotClient, batches, ordered_results
from accelerator_autopilot.contracts.errors import UnavailableError
from accelerator_autopilot.transport.publish_retries import publish_together
from accelerator_autopilot.transport.result_publishing import publish_result
from tests.conftest import NatsServer
from tests.integration.test_queue_limits import a_result, messages
from tests.support.gateway import gateway_http, gateway_on_a_port
from tests.support.waiting import eventually
from tests.support.worker import worker_process

pytestmark = [pytest.mark.nats, pytest.mark.timeout(150)]
COUNT = 1000


@pytest.mark.usefixtures("nc")
async def test_one_request_is_a_thousand_jobs_and_each_says_how_it_ended(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    payloads = [{"text": str(i)} for i in range(COUNT)]
    bad = {10: {"text": 5}, 20: {"wrong": "field"}, 999: {"text": "x", "fail": "permanently"}}
    payloads = [bad.get(i, payload) for i, payload in enumerate(payloads)]
    async with gateway_http(nats_server.url, tmp_path) as http:
        http.headers["X-API-Key"] = "o"
        answer = await http.post("/v1/batches", json={"kind": "echo", "payloads": payloads})
        assert (answer.status_code, answer.json()["count"]) == (202, COUNT)
        batch = f"/v1/batches/{answer.json()['id']}"
        async with worker_process(nats_server.url, AUTOPILOT_POOL_KINDS='["echo"]'):

            async def ended() -> bool:
                return bool((await http.get(batch)).json()["done"] == COUNT)

            await eventually(ended, 100)
        lines = [json.loads(line) for line in (await http.get(f"{batch}/results")).text.splitlines()]
    assert [line["job_id"].rsplit(".", 1)[1] for line in lines] == [str(i) for i in range(COUNT)]
    failed = {int(line["job_id"].rsplit(".", 1)[1]): line for line in lines if line["status"] != "succeeded"}
    assert set(failed) == set(bad)
    assert "text" in failed[10]["errors"][-1]["message"]
    assert "wrong" in failed[20]["errors"][-1]["message"]
    assert all(line["errors"][-1]["message"] for line in failed.values())


PAYLOADS = [{"text": str(i)} for i in range(300)]
BATCH = {"kind": "echo", "payloads": PAYLOADS}
OPERATOR = {"X-API-Key": "o"}


async def submitted(http: httpx.AsyncClient, key: str | None = None, **more: Any) -> httpx.Response:
    return await http.post(
        "/v1/batches", json=BATCH | more, headers=OPERATOR | ({"Idempotency-Key": key} if key else {})
    )


class TestRetries:
    async def test_the_same_key_is_the_same_batch(
        self, nats_server: NatsServer, client: AutopilotClient, tmp_path: Path
    ) -> None:
        async with gateway_http(nats_server.url, tmp_path) as http:
            first, again = await submitted(http, "k"), await submitted(http, "k")
            other = await submitted(http, "k", payloads=PAYLOADS[:-1])
            assert (await submitted(http, "k2")).json()["id"] != first.json()["id"]
        assert (first.json()["duplicate"], again.json()["duplicate"]) == (False, True)
        assert again.json()["id"] == first.json()["id"]
        assert (other.status_code, "already exists with other inputs" in other.text) == (409, True)
        assert await messages(client.js, "JOBS") == 600

    async def test_without_a_key_each_request_that_was_answered_is_a_batch(
        self, nats_server: NatsServer, client: AutopilotClient, tmp_path: Path
    ) -> None:
        async with gateway_http(nats_server.url, tmp_path) as http:
            answers = [(await submitted(http)).json() for _ in range(3)]
        assert len({answer["id"] for answer in answers}) == 3
        assert not any(answer["duplicate"] for answer in answers)
        assert await messages(client.js, "JOBS") == 900

    async def test_two_at_once_are_one_batch_unless_they_wish_otherwise(
        self, nats_server: NatsServer, client: AutopilotClient, tmp_path: Path
    ) -> None:
        async with gateway_http(nats_server.url, tmp_path) as http:
            one, two, other, whose = await asyncio.gather(
                submitted(http),
                submitted(http),
                submitted(http, priority="low"),
                http.post("/v1/batches", json=BATCH, headers={"X-API-Key": "a"}),
            )
        assert one.json()["id"] == two.json()["id"]
        assert len({a.json()["id"] for a in (one, other, whose)}) == 3
        assert await messages(client.js, "JOBS") == 900

    async def test_after_an_error_the_rest_is_added(
        self, nats_server: NatsServer, client: AutopilotClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        together, calls = publish_together, 0

        async def fails(*arguments: Any) -> bool:
            nonlocal calls
            calls += 1
            if calls == 2:
                raise UnavailableError("the stream is away")
            return await together(*arguments)

        async with gateway_http(nats_server.url, tmp_path) as http:
            with monkeypatch.context() as patch:
                patch.setattr(batches, "JOBS_PER_WRITE", 100)
                patch.setattr(batches, "publish_together", fails)
                assert (await submitted(http)).status_code == 503
            there = await messages(client.js, "JOBS")
            assert 0 < there < 300
            again = await submitted(http)
        assert (again.status_code, again.json()["duplicate"]) == (202, True)
        assert await messages(client.js, "JOBS") == 300

    async def test_a_client_that_went_away_and_comes_again_makes_no_second_batch(
        self, nats_server: NatsServer, client: AutopilotClient, tmp_path: Path
    ) -> None:
        body = json.dumps(BATCH).encode()
        head = f"POST /v1/batches HTTP/1.1\r\nHost: x\r\nX-API-Key: o\r\nContent-Length: {len(body)}\r\n"
        async with gateway_on_a_port(nats_server.url, tmp_path) as port:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
            await writer.drain()
            writer.close()

            async def stored() -> bool:
                return await messages(client.js, "JOBS") == 300

            await eventually(stored, 20)
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
                again = await submitted(http)
                assert (again.status_code, again.json()["duplicate"]) == (202, True)
                assert await stored()
                assert not (await submitted(http)).json()["duplicate"]
        assert await messages(client.js, "JOBS") == 600


class TestRoundTrips:
    async def test_a_batch_costs_one_message_a_job_to_submit_and_few_to_read(self, client: AutopilotClient) -> None:
        sent = client.nc.stats["out_msgs"]
        handle = await client.batches.map("echo", [{"text": str(i)} for i in range(1000)])
        assert client.nc.stats["out_msgs"] - sent < 1010
        for i in reversed(range(1000)):
            result, body = a_result(f"{handle.id}.{i}")
            await publish_result(client.js, result, body, 3600)
        sent = client.nc.stats["out_msgs"]
        found = [r.job_id async for r in handle.results(20)]
        assert found == [f"{handle.id}.{i}" for i in range(1000)]
        assert client.nc.stats["out_msgs"] - sent < 50

    async def test_results_come_in_order_however_little_is_held(
        self, client: AutopilotClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ordered_results, "MAX_HELD_BYTES", 2_000)
        monkeypatch.setattr(ordered_results, "READ_AT_ONCE", 3)
        handle = await client.batches.map("echo", [{"text": str(i)} for i in range(60)])
        reading = asyncio.create_task(handle.outputs(20))
        for i in [*range(59, 20, -1), *range(21)]:
            result, body = a_result(f"{handle.id}.{i}")
            await publish_result(client.js, result, body, 3600)
        assert len(await reading) == 60
        with pytest.raises(TimeoutError):
            _ = [r async for r in client.batches.results((await client.batches.map("echo", [{}])).id, 0.3)]
        view = await client.batches.view(handle.id)
        assert view.finished

    async def test_a_claimed_id_costs_three_messages_in_whoever_s_name(self, client: AutopilotClient) -> None:
        await client.jobs.submit("echo", {}, job_id="first")
        sent = client.nc.stats["out_msgs"]
        for number in range(20):
            await client.acting_as(f"user-{number}").jobs.submit("echo", {}, job_id=f"job-{number}")
        assert client.nc.stats["out_msgs"] - sent <= 60

    @pytest.mark.parametrize("allowed", [True, False])
    async def test_one_write_for_many_jobs_where_the_server_takes_it_and_each_by_itself_where_not(
        self, client: AutopilotClient, allowed: bool
    ) -> None:
        config = (await client.js.stream_info("JOBS")).config
        assert config.allow_atomic
        await client.js.update_stream(replace(config, allow_atomic=allowed))
        inputs = [{"text": "x" * 100_000 * (i % 3)} for i in range(300)]
        await client.js.publish("jobs.echo.normal.b.77", b"{}", headers={"Nats-Msg-Id": "b.77"})
        assert not (await client.batches.map("echo", inputs, batch_id="b")).duplicate
        jobs = [await client.js.get_msg("JOBS", sequence) for sequence in range(1, 301)]
        assert {job.subject for job in jobs} == {f"jobs.echo.normal.b.{i}" for i in range(300)}
        assert await messages(client.js, "JOBS") == 300
        later = await client.batches.map("echo", inputs, delay_s=600)
        assert (await messages(client.js, "LATER"), later.count) == (300, 300)

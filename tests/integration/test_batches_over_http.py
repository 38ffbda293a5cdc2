"""Many jobs in one request: each tells how it ended, also those that could not succeed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import NatsServer
from tests.support.gateway import gateway_http
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

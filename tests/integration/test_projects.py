"""Jobs of several projects on one queue: none sees, ends or replaces those of another."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
from nats.aio.client import Client

from accelerator_autopilot.client import AutopilotClient
from accelerator_autopilot.contracts.errors import NotFoundError
from accelerator_autopilot.gateway.app import create_app as create_gateway
from accelerator_autopilot.gateway.settings import GatewaySettings
from accelerator_autopilot.runtime.api_keys import digest
from tests.conftest import NatsServer
from tests.support.waiting import eventually
from tests.support.worker import worker_process

pytestmark = [pytest.mark.nats, pytest.mark.timeout(90)]

ECHO = {"AUTOPILOT_POOL_KINDS": '["echo"]'}
LARGE = "x" * 300_000


async def test_one_id_is_two_jobs_in_two_projects(client: AutopilotClient, nats_server: NatsServer) -> None:
    vision = client.in_project("vision")
    for where, text in ((client, "mine"), (vision, LARGE)):
        assert not (await where.jobs.submit("echo", {"text": text}, job_id="one")).duplicate
        assert (await where.jobs.submit("echo", {"text": text}, job_id="one")).duplicate
    async with worker_process(nats_server.url, **ECHO):
        first, second = await client.jobs.wait("one", 20), await vision.jobs.wait("one", 20)
    assert (first.project, first.output["text"]) == ("default", "mine")
    assert (second.project, second.output["text"]) == ("vision", LARGE)
    assert first.actor == second.actor == "tester"
    with pytest.raises(NotFoundError):
        await client.in_project("audio").jobs.view("one")


async def test_lists_show_the_jobs_of_one_project(client: AutopilotClient, nats_server: NatsServer) -> None:
    vision = client.in_project("vision")
    for where, job_id in ((client, "mine"), (vision, "theirs")):
        await where.jobs.submit("echo", {"text": "x"}, job_id=job_id)
        await where.jobs.submit("echo", {"text": "x"}, job_id=f"{job_id}-later", delay_s=600)
    assert sorted(job.id for job in await client.jobs.queued()) == ["mine", "mine-later"]
    assert sorted(job.id for job in await vision.jobs.queued()) == ["theirs", "theirs-later"]
    async with worker_process(nats_server.url, **ECHO):
        await client.jobs.wait("mine", 20)
        await vision.jobs.wait("theirs", 20)
    assert [job.id for job in await client.jobs.finished()] == ["mine"]
    assert [job.id for job in await vision.jobs.finished()] == ["theirs"]


async def test_batches_progress_and_dead_letters_stay_in_their_project(
    client: AutopilotClient, nats_server: NatsServer
) -> None:
    vision = client.in_project("vision")
    handle = await vision.batches.map("echo", [{"text": str(i)} for i in range(5)], batch_id="b")
    async with worker_process(nats_server.url, **ECHO):
        assert [o["text"] for o in await handle.outputs(20)] == ["0", "1", "2", "3", "4"]
        told = [report async for report in vision.jobs.stream("echo", {"text": "x", "work_s": 0.3})]
        assert told[-1].project == "vision"
        await (await vision.jobs.submit("echo", {"fail": "permanently"}, job_id="dead")).wait(20)
    assert (await handle.progress()).finished
    assert [d.id for d in await vision.dead.list()] == ["dead"]
    assert await client.dead.list() == []
    with pytest.raises(NotFoundError):
        await client.batches.view("b")


async def test_a_cancellation_ends_the_job_of_its_project_alone(
    client: AutopilotClient, nats_server: NatsServer
) -> None:
    vision = client.in_project("vision")
    await client.jobs.submit("echo", {"text": "x", "work_s": 1.0}, job_id="one")
    await vision.jobs.submit("echo", {"text": "x", "work_s": 30.0}, job_id="one")
    async with worker_process(nats_server.url, **ECHO):
        await vision.jobs.cancel("one")
        assert (await client.jobs.wait("one", 20)).status == "succeeded"
    assert (await vision.jobs.view("one")).state == "cancelled"


async def test_bare_publishers_choose_the_project_by_the_subject(
    client: AutopilotClient, nats_server: NatsServer
) -> None:
    await client.js.publish("projects.vision.jobs.echo.normal", b'{"id": "bare", "payload": {"text": "x"}}')
    await client.js.publish("jobs.echo.normal.liar", b'{"project": "vision", "payload": {"text": "x"}}')
    async with worker_process(nats_server.url, **ECHO):
        assert (await client.in_project("vision").jobs.wait("bare", 20)).status == "succeeded"
        refused = await client.jobs.wait("liar", 20)
    assert "project" in refused.errors[-1].message


async def test_an_api_key_belongs_to_a_project(nats_server: NatsServer, nc: Client, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    entries = {
        digest("ana"): {"role": "operator", "user": "ana", "project": "vision"},
        digest("ben"): {"role": "operator", "user": "ben"},
    }
    keys.write_text(json.dumps(entries))
    app = create_gateway(GatewaySettings(nats_url=nats_server.url, api_keys_file=keys))
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            job = {"kind": "echo", "payload": {"text": "x"}}
            made = await http.post("/v1/jobs", json=job, headers={"X-API-Key": "ana"})
            where = made.headers["location"]
            assert (await http.get(where, headers={"X-API-Key": "ana"})).status_code == 200
            assert (await http.get(where, headers={"X-API-Key": "ben"})).status_code == 404
            assert app.state.admission._accounts["ana"].unfinished == {f"vision/{made.json()['id']}"}
            async with worker_process(nats_server.url, **ECHO):
                await eventually(lambda: not app.state.admission._accounts["ana"].unfinished, 20)
                done = await http.get(where, headers={"X-API-Key": "ana"})
                assert done.json()["result"]["actor"] == "ana"

"""Who waits for a result that cannot come is told at once, and who waits for one that can goes on waiting."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

import accelerator_autopilot as ap
from accelerator_autopilot.client import AutopilotClient
from accelerator_autopilot.client.jobs import JobHandle
from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.errors import NotFoundError
from accelerator_autopilot.contracts.messages.jobs import JobProgress, JobResult
from accelerator_autopilot.transport.clock import utc_now
from accelerator_autopilot.transport.result_publishing import publish_result
from tests.conftest import NatsServer
from tests.support.gateway import gateway_on_a_port
from tests.support.waiting import eventually

pytestmark = [pytest.mark.nats, pytest.mark.timeout(90)]

AT_ONCE_S = 8.0
Wait = Callable[[AutopilotClient, str], Awaitable[object]]


def result(job_id: str, **more: Any) -> JobResult:
    now = utc_now()
    fields = {"job_id": job_id, "kind": "echo", "status": "succeeded", "submitted_at": now, "finished_at": now}
    return JobResult.model_validate(fields | {"output": {"text": "x"}} | more)


async def end(client: AutopilotClient, job_id: str, ttl_s: float = 600.0, **more: Any) -> None:
    """As a worker does: the result is stored, then the job leaves the queue."""
    one = result(job_id, **more)
    assert await publish_result(client.js, one, one.model_dump_json().encode(), ttl_s)
    await client.js.purge_stream("JOBS", subject=subjects.any_job(job_id))


async def result_expired(client: AutopilotClient) -> str:
    made = await client.jobs.submit("echo", {}, result_ttl_s=1)
    await end(client, made.id, 1)

    async def gone() -> bool:
        return await client.jobs.find_result(made.id) is None

    await eventually(gone, 20)
    return made.id


async def output_expired(client: AutopilotClient) -> str:
    made = await client.jobs.submit("echo", {})
    await end(client, made.id, output_ref="gone")
    return made.id


async def never_submitted(client: AutopilotClient) -> str:
    return "nobody.knows-it"


async def unreadable(client: AutopilotClient) -> str:
    made = await client.jobs.submit("echo", {})
    await client.js.publish(subjects.result(made.id), b'{"half')
    await client.js.purge_stream("JOBS", subject=subjects.any_job(made.id))
    return made.id


async def waits(client: AutopilotClient, job_id: str) -> object:
    return await client.jobs.wait(job_id, 60)


async def follows(client: AutopilotClient, job_id: str) -> object:
    return [told async for told in client.jobs.progress(job_id)]


@pytest.mark.parametrize("wait", [waits, follows])
@pytest.mark.parametrize("lost", [result_expired, output_expired, unreadable, never_submitted])
async def test_a_result_that_cannot_come_is_not_waited_for(
    client: AutopilotClient, lost: Callable[[AutopilotClient], Awaitable[str]], wait: Wait
) -> None:
    job_id = await lost(client)
    async with asyncio.timeout(AT_ONCE_S):
        with pytest.raises(NotFoundError, match="neither queued nor finished"):
            await wait(client, job_id)


async def queued(client: AutopilotClient) -> JobHandle:
    return await client.jobs.submit("echo", {})


async def scheduled(client: AutopilotClient) -> JobHandle:
    return await client.jobs.submit("echo", {}, delay_s=600)


async def behind_another(client: AutopilotClient) -> JobHandle:
    return await client.jobs.submit("echo", {}, after=[(await queued(client)).id])


async def without_id(client: AutopilotClient) -> JobHandle:
    body = {"job_id": "mine", "payload": {}}
    await client.js.publish("jobs.echo.normal", json.dumps(body).encode(), headers={"Nats-Msg-Id": "mine"})
    return JobHandle("mine", "echo", client.jobs)


@pytest.mark.parametrize("made", [queued, scheduled, behind_another, without_id])
async def test_a_result_that_can_come_is_waited_for(
    client: AutopilotClient, made: Callable[[AutopilotClient], Awaitable[JobHandle]]
) -> None:
    handle = await made(client)
    with pytest.raises(TimeoutError):
        await handle.wait(3.0)
    waiting = asyncio.create_task(handle.wait(20))
    await asyncio.sleep(0.5)
    await end(client, handle.id)
    assert (await waiting).status == "succeeded"


async def test_while_the_broker_stands_still_nothing_counts_as_gone(
    client: AutopilotClient, nats_server: NatsServer
) -> None:
    handle = await queued(client)
    waiting = asyncio.create_task(handle.wait(60))
    await asyncio.sleep(0.3)
    nats_server.freeze()
    try:
        await asyncio.sleep(8.0)
        assert not waiting.done()
    finally:
        nats_server.thaw()
    await end(client, handle.id)
    assert (await waiting).status == "succeeded"


async def test_handles_of_programs_tell_it(client: AutopilotClient, nats_server: NatsServer) -> None:
    async with ap.connect_async(nats_server.url) as fleet:
        job = await fleet.submit(ap.Echo(text="x"))
        kept = await fleet.submit(ap.Echo(text="y"))
        # Result and job went while this program could not look.
        await client.js.purge_stream("JOBS", subject=subjects.any_job(job.id))
        async with asyncio.timeout(AT_ONCE_S):
            with pytest.raises(ap.NotFoundError):
                await job.result()
        assert isinstance(await job.exception(), ap.NotFoundError)
        assert not kept.done()

    def program() -> None:
        with ap.connect(nats_server.url) as blocking:
            again = blocking.submit(ap.Echo(text="x"))
            asyncio.run_coroutine_threadsafe(
                client.js.purge_stream("JOBS", subject=subjects.any_job(again.id)), loop
            ).result(10)
            with pytest.raises(ap.NotFoundError):
                again.result(60)

    loop = asyncio.get_running_loop()
    await asyncio.wait_for(asyncio.to_thread(program), AT_ONCE_S + 10)


async def test_a_batch_as_it_ends_tells_what_has_expired(client: AutopilotClient) -> None:
    batch = await client.batches.map("echo", [{"text": str(i)} for i in range(40)])
    ids = [f"{batch.id}.{number}" for number in range(40)]
    await end(client, ids[3])
    await client.js.publish(subjects.result(ids[5]), b"{}")
    for number in (5, *range(10, 39)):
        await client.js.purge_stream("JOBS", subject=subjects.any_job(ids[number]))
    found: dict[int, JobResult] = {}

    async def read() -> None:
        async for number, one in client.batches.completed(batch.id, 60):
            found[number] = one  # noqa: PERF403  read while it grows

    reading = asyncio.create_task(read())
    gone = {5, *range(10, 39)}
    await eventually(lambda: set(found) == gone | {3}, AT_ONCE_S, "what has expired, and what is there")
    assert {found[number].errors[0].type for number in gone} == {"ResultExpired"}
    for number in set(range(40)) - gone - {3}:
        await end(client, ids[number])
    await asyncio.wait_for(reading, 20)
    assert {found[number].status for number in set(range(40)) - gone} == {"succeeded"}
    # In the order of the inputs, too, what is unreadable holds up nobody.
    async with asyncio.timeout(20):
        told = [one async for one in client.batches.results(batch.id, 60)]
    assert [one.job_id for one in told if one.status == "failed"] == [ids[number] for number in sorted(gone)]


async def test_events_of_a_job_over_http_end_with_an_error(
    client: AutopilotClient, nats_server: NatsServer, tmp_path: Path
) -> None:
    async def lines(port: int, job_id: str) -> AsyncIterator[str]:
        async with (
            httpx.AsyncClient(trust_env=False, timeout=30, headers={"X-API-Key": "v"}) as http,
            http.stream("GET", f"http://127.0.0.1:{port}/v1/jobs/{job_id}/events") as response,
        ):
            assert response.status_code == 200
            async for line in response.aiter_lines():
                yield line

    async with gateway_on_a_port(nats_server.url, tmp_path) as port:
        made = await client.jobs.submit("echo", {})

        async def read() -> list[str]:
            return [line async for line in lines(port, made.id) if line]

        reading = asyncio.create_task(read())
        progress = JobProgress(job_id=made.id, state="running", fraction=0.5, at=utc_now())

        for _ in range(10):
            await client.nc.publish(subjects.progress(made.id), progress.model_dump_json().encode())
            await asyncio.sleep(0.1)
        await client.js.purge_stream("JOBS", subject=subjects.any_job(made.id))
        heard = await asyncio.wait_for(reading, AT_ONCE_S)
        assert "event: progress" in heard
        assert heard[-2] == "event: error"
        assert json.loads(heard[-1].removeprefix("data: "))["status"] == 404

"""How jobs end that were cancelled while they ran, given back too often, or of an id that was used before."""

from __future__ import annotations

import asyncio
import os
import sys
from datetime import timedelta

import pytest

from accelerator_autopilot.client import AutopilotClient
from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.errors import BusyError, InvalidInputError
from accelerator_autopilot.contracts.exit_codes import ExitCode
from accelerator_autopilot.contracts.messages.jobs import JobState
from accelerator_autopilot.contracts.streams import job_durable
from accelerator_autopilot.transport.clock import utc_now
from accelerator_autopilot.transport.payload_store import load_payload
from accelerator_autopilot.transport.stream_setup import ensure_consumer
from tests.conftest import NatsServer
from tests.integration import test_queue_limits as limits
from tests.integration.test_job_stages import fill
from tests.integration.test_queue_limits import ECHO, resize
from tests.support.waiting import eventually
from tests.support.worker import worker_process

pytestmark = [pytest.mark.nats, pytest.mark.timeout(90)]


async def run_cli(url: str, *arguments: str) -> tuple[int | None, str]:
    environment = os.environ | {"AUTOPILOT_NATS_URL": url, "COLUMNS": "300"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "accelerator_autopilot.cli.app", *arguments, env=environment,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    return process.returncode, output.decode()


class TestCancelledWithoutRoom:
    """RESULTS is full, so whoever cancels is told so, and the worker that has the job writes it down once it can."""

    async def test_a_running_job_ends_as_cancelled(self, client: AutopilotClient, nats_server: NatsServer) -> None:
        async with worker_process(nats_server.url, **ECHO):
            handle = await client.jobs.submit("echo", {"text": "x", "work_s": 60})
            await eventually(lambda: limits.TestFull().runs(client, handle.id), 20)
            await fill(client.js)
            with pytest.raises(BusyError, match="stream is full"):
                await client.jobs.cancel(handle.id)
            await asyncio.sleep(1)
            await resize(client.js, "RESULTS", 2**20)
            assert (await handle.wait(30)).status == "cancelled"
            await eventually(lambda: limits.TestFull().empty(client.js), 20, what="no job left")

    async def test_a_job_that_waits_for_its_result_to_be_stored_ends_as_cancelled(
        self, client: AutopilotClient, nats_server: NatsServer
    ) -> None:
        await fill(client.js)
        async with worker_process(nats_server.url, **ECHO):
            handle = await client.jobs.submit("echo", {"text": "x"})
            await eventually(lambda: limits.TestFull().runs(client, handle.id), 20)
            with pytest.raises(BusyError):
                await client.jobs.cancel(handle.id)
            # The worker learns of it from a watch, which nothing else shows.
            await asyncio.sleep(1.0)
            await resize(client.js, "RESULTS", 2**20)
            assert (await handle.wait(30)).status == "cancelled"


async def test_what_is_known_of_an_id_does_not_end_the_next_job_under_it(
    client: AutopilotClient, nats_server: NatsServer
) -> None:
    stale = JobState(cancelled=True, kills=3, at=utc_now() - timedelta(days=2))
    await (await client.js.key_value("jobs")).put("one", stale.model_dump_json().encode())
    async with worker_process(nats_server.url, **ECHO):
        handle = await client.jobs.submit("echo", {"text": "x", "fail": "first_attempt", "work_s": 0.5}, job_id="one")
        result = await handle.wait(30)
    assert (result.status, result.attempt) == ("succeeded", 2)


async def test_a_job_that_its_workers_never_end_is_buried_and_the_command_line_says_why(
    client: AutopilotClient, nats_server: NatsServer
) -> None:
    await client.jobs.submit("echo", {"text": "x"}, job_id="killer", max_attempts=1)
    await ensure_consumer(client.js, "JOBS", job_durable("echo", "normal"))
    subscription = await client.js.pull_subscribe_bind("pool-echo-normal", stream="JOBS")
    for _ in range(22):
        (message,) = await subscription.fetch(1, timeout=15)
        await message.nak()
    await subscription.unsubscribe()
    async with worker_process(nats_server.url, **ECHO):
        result = await client.jobs.wait("killer", 30)
    why = "its workers died or returned it 22 times without an outcome"
    assert (result.status, result.errors[-1].type, result.errors[-1].message) == ("failed", "worker_died", why)
    (code, told), (_, listed) = await asyncio.gather(
        run_cli(nats_server.url, "result", "killer"), run_cli(nats_server.url, "dead")
    )
    assert (code, told.strip()) == (ExitCode.FAILED, f"error: job killer failed: {why}")
    assert why in listed


async def test_the_command_line_shows_rubbish_as_it_is(client: AutopilotClient, nats_server: NatsServer) -> None:
    await client.js.publish("jobs.echo.normal.rubbish", b"[/red] [bold]\x1b]0;title\x07")
    async with worker_process(nats_server.url, **ECHO):
        await client.jobs.wait("rubbish", 20)
    letter = (await client.dead.list("echo"))[0].model_copy(update={"errors": []})
    await client.js.publish("dead.echo", letter.model_dump_json().encode())
    code, listed = await run_cli(nats_server.url, "dead")
    assert code == 0
    assert "[/red] [bold]" in listed
    assert "\x1b]" not in listed


async def test_an_input_too_large_to_be_read_is_refused(
    client: AutopilotClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accelerator_autopilot.client.jobs.MAX_PAYLOAD_BYTES", 300_000)
    with pytest.raises(InvalidInputError, match="may have at most 300000 bytes"):
        await client.jobs.submit("echo", {"text": "x" * 400_000})
    job = await client.jobs.submit("echo", {"text": "x" * 280_000})
    message = await client.js.get_last_msg("JOBS", subjects.any_job(job.id))
    reference = (message.data or b"").decode().split('"payload_ref":"')[1].split('"')[0]
    with pytest.raises(InvalidInputError, match="may have at most 1000 bytes"):
        await load_payload(client.js, reference, 1000)

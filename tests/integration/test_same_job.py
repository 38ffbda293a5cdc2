"""The same id or key is the same job for as long as the job or its result exists."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from nats.js import JetStreamContext

from accelerator_autopilot.client import AutopilotClient
from accelerator_autopilot.contracts.errors import ConflictError, InvalidInputError
from accelerator_autopilot.transport.result_publishing import publish_result
from tests.conftest import NatsServer
from tests.integration.test_queue_limits import a_result, messages
from tests.support.worker import worker_process

pytestmark = [pytest.mark.nats, pytest.mark.timeout(60)]

ECHO = {"AUTOPILOT_POOL_KINDS": '["echo"]'}


async def forget_message_ids(js: JetStreamContext, stream: str = "JOBS") -> None:
    """As after the two minutes for which the server remembers them."""
    config = (await js.stream_info(stream)).config
    await js.update_stream(replace(config, duplicate_window=0.1))
    await asyncio.sleep(0.3)


@pytest.mark.parametrize("options", [{}, {"delay_s": 600}, {"after": ["another"]}])
async def test_a_queued_job_is_not_queued_again_however_long_it_waits(
    client: AutopilotClient, options: dict[str, object]
) -> None:
    first = await client.jobs.submit("echo", {"text": "x"}, idempotency_key="k", **options)
    await forget_message_ids(client.js)
    again = await client.jobs.submit("echo", {"text": "x"}, idempotency_key="k", priority="high", **options)
    assert (first.duplicate, again.duplicate, again.id) == (False, True, first.id)
    assert await messages(client.js, "JOBS") + await messages(client.js, "LATER") == 1


async def test_another_payload_under_the_same_key_is_refused(client: AutopilotClient, nats_server: NatsServer) -> None:
    first = await client.jobs.submit("echo", {"text": "x"}, idempotency_key="k")
    with pytest.raises(ConflictError, match=f"job {first.id} already exists with another"):
        await client.jobs.submit("echo", {"text": "y"}, idempotency_key="k")
    async with worker_process(nats_server.url, **ECHO):
        await first.wait(20)
    with pytest.raises(ConflictError):
        await client.jobs.submit("echo", {"text": "y"}, idempotency_key="k")
    assert (await client.jobs.submit("echo", {"text": "x"}, idempotency_key="k")).duplicate


@pytest.mark.parametrize("options", [{}, {"delay_s": 600}, {"after": ["another"]}])
async def test_a_job_knows_what_it_is_when_its_claim_is_over(
    client: AutopilotClient, options: dict[str, object]
) -> None:
    await client.jobs.submit("echo", {"text": "x"}, job_id="one", **options)
    await (await client.js.key_value("claims")).purge("one")
    await forget_message_ids(client.js)
    assert (await client.jobs.submit("echo", {"text": "x"}, job_id="one", **options)).duplicate
    await (await client.js.key_value("claims")).purge("one")
    with pytest.raises(ConflictError, match="job one already exists with another"):
        await client.jobs.submit("echo", {"text": "y"}, job_id="one", **options)
    assert await messages(client.js, "JOBS") + await messages(client.js, "LATER") == 1


async def test_a_result_knows_what_it_is_of_when_the_claim_is_over(
    client: AutopilotClient, nats_server: NatsServer
) -> None:
    async with worker_process(nats_server.url, **ECHO):
        await (await client.jobs.submit("echo", {"text": "x"}, job_id="one")).wait(20)
        dead = await client.jobs.submit("echo", {"fail": "permanently"}, job_id="two")
        assert (await dead.wait(20)).status == "failed"
    for job_id, payload in (("one", {"text": "x"}), ("two", {"fail": "permanently"})):
        await (await client.js.key_value("claims")).purge(job_id)
        with pytest.raises(ConflictError):
            await client.jobs.submit("echo", {"text": "y"}, job_id=job_id)
        await (await client.js.key_value("claims")).purge(job_id)
        assert (await client.jobs.submit("echo", payload, job_id=job_id)).duplicate


async def test_a_repeated_large_job_keeps_the_input_of_the_first(
    client: AutopilotClient, nats_server: NatsServer
) -> None:
    payload = {"text": "x" * 300_000}
    await client.jobs.submit("echo", payload, job_id="one")
    await (await client.js.key_value("claims")).purge("one")
    await forget_message_ids(client.js)
    assert (await client.jobs.submit("echo", payload, job_id="one")).duplicate
    async with worker_process(nats_server.url, **ECHO):
        assert (await client.jobs.wait("one", 20)).output["text"] == payload["text"]


async def test_the_server_forgets_a_claim_soon(client: AutopilotClient) -> None:
    await client.jobs.submit("echo", {"text": "x"}, job_id="one")
    message = await client.js.get_last_msg("KV_claims", "$KV.claims.one")
    assert (message.headers or {})["Nats-TTL"] == "120"


async def test_many_who_submit_at_once_make_one_job(client: AutopilotClient) -> None:
    handles = await asyncio.gather(*(client.jobs.submit("echo", {"text": "x"}, job_id="one") for _ in range(20)))
    assert sorted(h.duplicate for h in handles) == [False] + [True] * 19
    assert await messages(client.js, "JOBS") == 1


async def test_an_id_is_free_once_job_and_result_are_gone(client: AutopilotClient) -> None:
    await client.jobs.submit("echo", {"text": "x"}, job_id="one")
    await client.js.purge_stream("JOBS")
    claim = await (await client.js.key_value("claims")).get("one")
    assert claim.value is not None
    await (await client.js.key_value("claims")).put("one", claim.value.replace(b'"at":"20', b'"at":"19'))
    assert not (await client.jobs.submit("echo", {"text": "y"}, job_id="one")).duplicate
    assert await messages(client.js, "JOBS") == 1


async def test_a_claim_whose_maker_died_before_it_published_gives_way(client: AutopilotClient) -> None:
    await client.jobs._claims.claim("one", "digest")
    assert not (await client.jobs.submit("echo", {"text": "x"}, job_id="one")).duplicate


async def test_a_result_without_a_claim_is_the_same_job(client: AutopilotClient) -> None:
    result, body = a_result("one")
    await publish_result(client.js, result, body, 3600)
    assert (await client.jobs.submit("echo", {"text": "x"}, job_id="one")).duplicate


async def test_a_repeated_batch_publishes_what_is_missing_alone(client: AutopilotClient) -> None:
    inputs = [{"text": str(i)} for i in range(1500)]
    await client.batches.map("echo", inputs, batch_id="b")
    await forget_message_ids(client.js)
    await client.js.purge_stream("JOBS", subject="jobs.*.*.b.7")
    await client.batches.map("echo", inputs, batch_id="b")
    assert await messages(client.js, "JOBS") == 1500
    with pytest.raises(ConflictError, match="batch b already exists with other inputs"):
        await client.batches.map("echo", inputs[:-1], batch_id="b")


@pytest.mark.parametrize("identity", ["a/b", "..", ".", "a\\b"])
async def test_ids_that_no_path_can_hold_are_refused(client: AutopilotClient, identity: str) -> None:
    with pytest.raises(InvalidInputError, match="slash"):
        await client.jobs.submit("echo", {}, job_id=identity)
    with pytest.raises(InvalidInputError):
        await client.batches.map("echo", [{}], batch_id=identity)
    assert await messages(client.js, "JOBS") == 0


@pytest.mark.parametrize("subject", ["jobs.echo.low.one", "jobs.embed.high.one"])
async def test_a_queued_job_of_a_bare_publisher_is_the_same_job_wherever_it_is_queued(
    client: AutopilotClient, subject: str
) -> None:
    await client.js.publish(subject, b'{"payload": {"text": "x"}}')
    assert (await client.jobs.submit("echo", {"text": "x"}, job_id="one")).duplicate
    assert await messages(client.js, "JOBS") == 1

"""A message that claims to be the server's status is handled once, like any other."""

from __future__ import annotations

import asyncio

import pytest
from nats.aio.client import Client

from accelerator_autopilot.contracts import streams
from accelerator_autopilot.runtime.consumers import pull_batches
from accelerator_autopilot.runtime.pull_subscription import PullSubscription

CLAIMS = ({"Status": "409", "Description": "Consumer Deleted"}, {"Status": "404"}, {"Status": "100"}, {"Status": "x"})


@pytest.mark.nats
async def test_a_stream_gets_past_messages_that_claim_a_status(nc: Client) -> None:
    js = nc.jetstream()
    await js.add_consumer("EVENTS", streams.durable("reader"))
    for claim in CLAIMS:
        await js.publish("telemetry.events.n1.gpu-0", b"", headers=dict(claim))
    await js.publish("telemetry.events.n1.gpu-0", b"honest")
    taken = []
    async with asyncio.timeout(10):
        async for batch in pull_batches(js, "EVENTS", "reader", batch=1):
            taken += [message.data for message in batch]
            await asyncio.gather(*(message.ack() for message in batch))
            if b"honest" in taken:
                break
    assert taken == [b""] * len(CLAIMS) + [b"honest"]


@pytest.mark.nats
async def test_a_worker_takes_jobs_that_claim_a_status(nc: Client) -> None:
    js, arrived = nc.jetstream(), asyncio.Event()
    await js.add_consumer("JOBS", streams.job_durable("echo", "normal"))
    for claim in CLAIMS:
        await js.publish("jobs.echo.normal.j1", b"", headers=dict(claim))
    puller = PullSubscription(nc, "JOBS", streams.job_durable("echo", "normal").durable_name or "", arrived)
    await puller.start()
    async with asyncio.timeout(10):
        while len(puller.ready) < len(CLAIMS):
            arrived.clear()
            await puller.ask(10)
            await arrived.wait()
    assert not puller.missing
    await puller.stop()

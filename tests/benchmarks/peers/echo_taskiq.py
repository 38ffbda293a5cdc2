"""taskiq over NATS JetStream: acknowledged after the run, results in a KV bucket's object store."""

import asyncio
import os

from taskiq_nats import NATSObjectStoreResultBackend, PullBasedJetStreamBroker

backend = NATSObjectStoreResultBackend(servers=os.environ["BROKER"])
broker = PullBasedJetStreamBroker(
    servers=os.environ["BROKER"], queue="taskiq", pull_consume_batch=1, durable="taskiq", stream_name="taskiq"
).with_result_backend(backend)


@broker.task
async def echo(text):
    return text


async def _measure(jobs, singles, text, clock):
    await broker.startup()

    async def one():
        task = await echo.kiq(text)
        await task.wait_result(check_interval=0.001, timeout=60)

    latencies = []
    for _ in range(singles):
        began = clock()
        await one()
        latencies.append(clock() - began)

    async def client(count):
        for _ in range(count):
            await one()

    began = clock()
    share = max(1, jobs // 256)
    await asyncio.gather(*(client(share) for _ in range(256)))
    rate = share * 256 / (clock() - began)
    await broker.shutdown()
    return rate, latencies


def measure(jobs, singles, text, clock):
    return asyncio.run(_measure(jobs, singles, text, clock))

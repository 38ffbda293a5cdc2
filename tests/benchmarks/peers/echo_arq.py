"""arq: acknowledged after the run, results stored in Redis."""

import asyncio
import os

from arq import create_pool
from arq.connections import RedisSettings


async def echo(ctx, text):
    return text


class WorkerSettings:
    functions = [echo]
    redis_settings = RedisSettings.from_dsn(os.environ["BROKER"])
    max_jobs = 256
    poll_delay = 0.001
    keep_result = 3600


async def _measure(jobs, singles, text, clock):
    redis = await create_pool(WorkerSettings.redis_settings)

    async def one():
        job = await redis.enqueue_job("echo", text)
        await job.result(timeout=60, poll_delay=0.001)

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
    return share * 256 / (clock() - began), latencies


def measure(jobs, singles, text, clock):
    return asyncio.run(_measure(jobs, singles, text, clock))

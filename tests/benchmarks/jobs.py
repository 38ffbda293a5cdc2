"""`echo` jobs through one worker beside a bare nats-py loop over the same streams, in one run.

Both make the same acknowledged writes: the job into JOBS, the result into RESULTS, the
acknowledgement of the job. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg

from accelerator_autopilot.contracts import streams, subjects
from accelerator_autopilot.contracts.ids import new_id
from accelerator_autopilot.contracts.messages.jobs import Job
from accelerator_autopilot.deploy.local.instance import take_port
from accelerator_autopilot.deploy.local.servers import nats_binary, wait_for_port, write_nats_config
from accelerator_autopilot.deploy.local.supervised_process import ManagedProcess
from accelerator_autopilot.transport import stream_setup
from accelerator_autopilot.transport.clock import utc_now
from tests.support.worker import worker_process

PAYLOAD = "x" * 900
CONCURRENCY = 256
Complete = Callable[[str], Awaitable[None]]


def job_body(job_id: str) -> bytes:
    """A job of about 1 KiB."""
    job = Job(id=job_id, kind="echo", priority="normal", payload={"text": PAYLOAD}, submitted_at=utc_now())
    return job.model_dump_json(exclude_none=True).encode()


async def bare_worker(nc: Client) -> None:
    """The same writes without us: pull, publish a result of the same size, acknowledge."""
    js = nc.jetstream()
    subscription = await js.pull_subscribe_bind("pool-echo-normal", stream="JOBS")

    async def one(message: Msg) -> None:
        await js.publish(subjects.result(message.subject.rsplit(".", 1)[1]), message.data)
        await message.ack()

    while True:
        try:
            batch = await subscription.fetch(256, timeout=1)
        except TimeoutError:
            continue
        await asyncio.gather(*(one(message) for message in batch))


class Results:
    """Tells who waits that a result came."""

    def __init__(self) -> None:
        self._waiting: dict[str, asyncio.Future[None]] = {}

    async def listen(self, nc: Client) -> None:
        async def arrived(message: Msg) -> None:
            future = self._waiting.pop(message.subject.rsplit(".", 1)[1], None)
            if future is not None and not future.done():
                future.set_result(None)

        await nc.subscribe(subjects.RESULTS, cb=arrived)

    def expect(self, job_id: str) -> asyncio.Future[None]:
        return self._waiting.setdefault(job_id, asyncio.get_running_loop().create_future())


async def measure(nc: Client, jobs: int, singles: int) -> tuple[float, list[float]]:
    """Jobs per second at full concurrency, and seconds from publish to result one at a time."""
    js = nc.jetstream()
    results = Results()
    await results.listen(nc)

    async def run_one() -> None:
        job_id = new_id()
        done = results.expect(job_id)
        body = job_body(job_id)
        await js.publish(subjects.job("echo", "normal", job_id), body, headers={"Nats-Msg-Id": job_id})
        await asyncio.wait_for(done, 60)

    latencies = []
    for _ in range(20 + singles):
        began = time.perf_counter()
        await run_one()
        latencies.append(time.perf_counter() - began)

    async def client(count: int) -> None:
        for _ in range(count):
            await run_one()

    await asyncio.gather(*(client(max(1, jobs // CONCURRENCY // 10)) for _ in range(CONCURRENCY)))
    began = time.perf_counter()
    share = max(1, jobs // CONCURRENCY)
    await asyncio.gather(*(client(share) for _ in range(CONCURRENCY)))
    return share * CONCURRENCY / (time.perf_counter() - began), latencies[20:]


async def run(jobs: int, singles: int, sync: str) -> dict[str, object]:
    """Measure the bare loop, then our worker, on one server."""
    with tempfile.TemporaryDirectory(prefix="autopilot-bench-") as name:
        folder = Path(name)
        port = take_port(0, "nats")
        config = write_nats_config(folder, port, "bench", "bench", sync=sync)
        server = ManagedProcess("nats", [nats_binary(), "-c", str(config)], os.environ, folder / "nats.log")
        await server.start()
        await wait_for_port(port)
        url = f"nats://bench:bench@127.0.0.1:{port}"
        nc = await nats.connect(url)
        js = nc.jetstream()
        await stream_setup.ensure(js)
        await stream_setup.ensure_consumer(js, "JOBS", streams.job_durable("echo", "normal"))
        bare = await asyncio.create_subprocess_exec(sys.executable, "-m", "tests.benchmarks.jobs", "--bare", url)
        try:
            bare_rate, bare_latencies = await measure(nc, jobs, singles)
        finally:
            bare.kill()
            await bare.wait()
        await js.purge_stream("JOBS")
        await js.purge_stream("RESULTS")
        environment = {"AUTOPILOT_NATS_USER": "bench", "AUTOPILOT_NATS_PASSWORD": "bench"}
        async with worker_process(f"nats://127.0.0.1:{port}", "bench", **environment):
            rate, latencies = await measure(nc, jobs, singles)
        await nc.close()
        await server.stop()

    def ms(values: list[float], percentile: int) -> float:
        return round(statistics.quantiles(values, n=100)[percentile - 1] * 1e3, 3)

    return {
        "name": "jobs", "value": round(rate), "unit": "jobs/s", "baseline": round(bare_rate),
        "ratio": round(rate / bare_rate, 3), "p50_ms": ms(latencies, 50), "p99_ms": ms(latencies, 99),
        "baseline_p50_ms": ms(bare_latencies, 50), "baseline_p99_ms": ms(bare_latencies, 99),
        "concurrency": CONCURRENCY, "jobs": jobs, "sync_interval": sync,
    }  # fmt: skip


async def serve_bare(url: str) -> None:
    await bare_worker(await nats.connect(url))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="fewer jobs, for CI")
    parser.add_argument("--sync", default="always", help="sync_interval of nats-server: always, or a time like 2m")
    parser.add_argument("--bare", metavar="URL", help="be the bare worker")
    arguments = parser.parse_args()
    if arguments.bare:
        asyncio.run(serve_bare(arguments.bare))
        return
    jobs, singles = (2_560, 100) if arguments.short else (25_600, 1_000)
    print(json.dumps(asyncio.run(run(jobs, singles, arguments.sync))))


if __name__ == "__main__":
    main()

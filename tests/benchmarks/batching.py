"""MiniLM embeddings of single texts from the queue, beside the bare model one by one and at its best batch size.

Open loop at a fraction of what the bare model can do gives the latencies; closed loop at full backlog the rate. The
last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

import nats
from nats.aio.msg import Msg

from accelerator_autopilot.client import AutopilotClient
from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.ids import new_id
from accelerator_autopilot.deploy.local.instance import take_port
from accelerator_autopilot.deploy.local.servers import nats_binary, wait_for_port
from accelerator_autopilot.inference.model_loading import encoder
from accelerator_autopilot.inference.settings import ModelSettings
from accelerator_autopilot.transport import stream_setup
from accelerator_autopilot.transport.settings import NatsSettings
from tests.support.worker import worker_process

BUDGET_S = 0.25
LOAD = 0.5
SIZES = (16, 32, 64, 128, 256)
TEXT = "The GPU on node {} runs at {} degrees and draws {} watts in job {}."


def texts(count: int) -> list[str]:
    return [TEXT.format(i % 97, 40 + i % 50, 100 + i % 300, i) for i in range(count)]


def bare(threads: int, count: int) -> tuple[float, float]:
    """Texts per second one by one, and at the best batch size."""
    model = encoder(ModelSettings(torch_threads=threads))
    sample = texts(count)
    model.encode(sample[:64])
    few = sample[: max(50, count // 8)]
    began = time.perf_counter()
    for text in few:
        model.encode([text])
    single = len(few) / (time.perf_counter() - began)
    best = 0.0
    for size in SIZES:
        began = time.perf_counter()
        for start in range(0, count, size):
            model.encode(sample[start : start + size])
        best = max(best, count / (time.perf_counter() - began))
    return single, best


async def run(count: int, threads: int, workers: int) -> dict[str, object]:
    single, best = await asyncio.to_thread(bare, threads * workers, count)
    folder = Path(tempfile.mkdtemp(prefix="autopilot-batching-"))
    port = take_port(0, "nats")
    url = f"nats://127.0.0.1:{port}"
    server = subprocess.Popen(
        [nats_binary(), "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(folder)], stderr=subprocess.DEVNULL
    )
    try:
        await wait_for_port(port)
        connection = await nats.connect(url)
        await stream_setup.ensure(connection.jetstream())
        await connection.close()
        settings = {
            "AUTOPILOT_POOL_KINDS": '["embed"]', "AUTOPILOT_TORCH_THREADS": str(threads),
            "AUTOPILOT_BATCH_BUDGET_S": str(BUDGET_S), "AUTOPILOT_PRELOAD_KINDS": '["embed"]',
        }  # fmt: skip
        async with AsyncExitStack() as stack:
            for i in range(workers):
                await stack.enter_async_context(worker_process(url, f"bench-{i}", **settings))
            autopilot = await stack.enter_async_context(AutopilotClient(NatsSettings(nats_url=url)))
            rate = await closed_loop(autopilot, count)
            latencies = await open_loop(autopilot, LOAD * best, count // 2)
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)
    cuts = statistics.quantiles(latencies, n=100)
    return {
        "name": "batching", "value": round(rate, 1), "unit": "texts/s", "baseline": round(best, 1),
        "ratio": round(rate / best, 3), "limit_ratio": 0.9, "one_by_one": round(single, 1),
        "times_one_by_one": round(rate / single, 2), "limit_times": 3.0, "p50_ms": round(cuts[49] * 1e3, 1),
        "p99_ms": round(cuts[98] * 1e3, 1), "budget_ms": BUDGET_S * 1e3, "load": LOAD, "texts": count,
        "threads": threads, "workers": workers, "cores": os.cpu_count(),
    }  # fmt: skip


async def closed_loop(autopilot: AutopilotClient, count: int) -> float:
    """Texts per second with all of them queued at once, after the worker has learned its batch size."""
    learn = await autopilot.batches.map("embed", ({"texts": [t]} for t in texts(count // 2)))
    async for _ in learn.results(120):
        pass
    times: list[float] = []
    ended = asyncio.Event()

    async def on_result(_: Msg) -> None:
        times.append(time.perf_counter())
        if len(times) == count:
            ended.set()

    name = new_id()
    subscription = await autopilot.nc.subscribe(subjects.results_of(name), cb=on_result)
    await autopilot.batches.map("embed", ({"texts": [t]} for t in texts(count)), batch_id=name)
    await asyncio.wait_for(ended.wait(), 300)
    await subscription.unsubscribe()
    # While jobs are still being submitted the client takes its share of the cores.
    half = count // 2
    return (count - half) / (times[-1] - times[half - 1])


async def open_loop(autopilot: AutopilotClient, rate: float, count: int) -> list[float]:
    """Seconds from submission to result at a steady rate of arrivals."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    latencies: list[float] = []

    async def one(index: int) -> None:
        due = began + index / rate
        await asyncio.sleep(max(0.0, due - loop.time()))
        handle = await autopilot.jobs.submit("embed", {"texts": texts(index + 1)[-1:]})
        await handle.wait(60)
        latencies.append(loop.time() - due)

    await asyncio.gather(*(one(i) for i in range(count)))
    return latencies


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="fewer texts, for CI")
    parser.add_argument("--threads", type=int, default=1, help="torch's threads of each worker; the bare model has all")
    parser.add_argument("--workers", type=int, default=1, help="worker processes")
    arguments = parser.parse_args()
    print(json.dumps(asyncio.run(run(400 if arguments.short else 3000, arguments.threads, arguments.workers))))


if __name__ == "__main__":
    main()

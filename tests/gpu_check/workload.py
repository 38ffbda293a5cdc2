"""Jobs through the product on the card: rates beside the bare model, joules, two workers, and a full memory."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from typing import Any

from nats.aio.msg import Msg

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.ids import new_id
from accelerator_autopilot.contracts.messages.jobs import JobResult
from tests.gpu_check import models
from tests.gpu_check.children import ROOT, load
from tests.gpu_check.stack import Stack

OUTPUTS = {"embed": 1, "classify": 1, "classify-image": models.IMAGES, "generate": models.TOKENS}
WAIT_S = 40.0


async def bare(kind: str, stack: Stack, settings: dict[str, str], seconds: float) -> dict[str, Any]:
    """The baseline in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.gpu_check.bare", kind, str(seconds), cwd=ROOT,
        env={**stack.environment, **settings}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    if process.returncode:
        return {"error": err.decode(errors="replace")[-600:]}
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


async def run(
    stack: Stack, kind: str, count: int, device: str, payloads: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    """So many jobs, all queued at once: what came of them, the rate once half are done, and joules an output."""
    name, times = new_id(), []
    results: list[JobResult] = []
    ended = asyncio.Event()

    async def on_result(message: Msg) -> None:
        times.append(time.perf_counter())
        results.append(JobResult.model_validate_json(message.data))
        if len(results) == count:
            ended.set()

    subscription = await stack.client.nc.subscribe(subjects.results_of(name), cb=on_result)
    before, began = await asyncio.to_thread(joules, device), time.perf_counter()
    await stack.client.batches.map(kind, payloads or models.payloads(kind, count), batch_id=name)
    try:
        await asyncio.wait_for(ended.wait(), WAIT_S)
    except TimeoutError:
        seen = [e.message for r in results for e in r.errors[-1:]][:1]
        raise TimeoutError(f"{len(results)} of {count} results after {WAIT_S:g} s {seen}") from None
    finally:
        await subscription.unsubscribe()
    after = await asyncio.to_thread(joules, device)
    half = count // 2
    outputs = count * OUTPUTS[kind]
    failures = [e.message for r in results if r.status != "succeeded" for e in r.errors[-1:]]
    return {
        "jobs": count, "succeeded": sum(r.status == "succeeded" for r in results), "failures": failures[:3],
        "retried": sum(r.attempt > 1 for r in results), "took_s": times[-1] - began,
        "per_s": (count - half) * OUTPUTS[kind] / max(1e-9, times[-1] - times[half - 1]),
        "joules": (after - before) / outputs if before is not None and after is not None else None,
        "joules_a_job": (after - before) / count if before is not None and after is not None else None,
        "workers": len({r.worker for r in results}), "devices": sorted({r.device for r in results}),
        "batch_most": max((r.usage.batch_size for r in results if r.usage), default=None),
    }  # fmt: skip


def joules(device: str) -> float | None:
    """The card's counter, read without a context of our own."""
    if device != "cuda":
        return None
    import pynvml

    pynvml.nvmlInit()
    return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(pynvml.nvmlDeviceGetHandleByIndex(0))) / 1e3


async def beside_bare(
    stack: Stack, kind: str, settings: dict[str, str], count: int, device: str, seconds: float
) -> dict[str, Any]:
    """A kind through the product after a round to learn the batch size, and the bare model afterwards."""
    await run(stack, kind, max(4, count // 4), device)
    product = await run(stack, kind, count, device)
    alone = await bare(kind, stack, settings | {"AUTOPILOT_TORCH_DEVICE": device}, seconds)
    ratio = product["per_s"] / alone["best_per_s"] if alone.get("best_per_s") else None
    return {"product": product, "bare": alone, "ratio": ratio}


async def two_workers(stack: Stack, kind: str, count: int, device: str) -> dict[str, Any]:
    """One worker, then two on the same card."""
    one = await run(stack, kind, count, device)
    await stack.client.steering.scale("default", 2)
    waited = await stack.workers_ready(2, 60)
    await run(stack, kind, max(4, count // 4), device)
    two = await run(stack, kind, count, device)
    await stack.client.steering.scale("default", 1)
    await stack.workers_ready(1, 60)
    return {"one": one, "two": two, "second_ready_after_s": waited, "times": two["per_s"] / one["per_s"]}


async def out_of_memory(stack: Stack, count: int, device: str, held_s: float) -> dict[str, Any]:
    """Jobs that need memory while another process holds all of it: they wait, none is lost, the worker lives on."""
    inputs = [{"texts": models.texts(64, words=250, seed=i)} for i in range(count)]

    async def hold() -> None:
        def held() -> None:
            with load("hog", device):
                holding.set()
                time.sleep(held_s)

        await asyncio.to_thread(held)

    holding = threading.Event()
    holder = asyncio.create_task(hold())
    while not holding.is_set() and not holder.done():
        await asyncio.sleep(0.1)
    outcome = await run(stack, "embed", count, device, inputs)
    await holder
    pools = await stack.client.fleet.pools()
    log = stack.tail("pool", 400)
    return {
        "outcome": outcome, "held_s": held_s, "out_of_memory_told": log.count("out of device memory"),
        "set_aside": dict(pools[0].set_aside), "restarts": pools[0].restarts,
    }  # fmt: skip

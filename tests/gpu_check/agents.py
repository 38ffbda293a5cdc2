"""What the agent costs on this machine, and how punctual it is, at 1 and at 10 samples a second."""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Any

import psutil

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.frames import decode
from tests.gpu_check.stack import Stack

PERIODS_S = (1.0, 0.1)
SETTLE_S = 2.0


async def cost(stack: Stack, seconds: float) -> dict[str, Any]:
    """One agent at each rate, both at once, for so long after their first samples."""
    names = {f"agent-{1 / p:g}hz": p for p in PERIODS_S}
    pids = {n: await stack.start_agent(n, AUTOPILOT_PERIOD_S=str(p), AUTOPILOT_NODE=n) for n, p in names.items()}
    for name in names:
        await first_frame(stack, name)
    await asyncio.sleep(SETTLE_S)
    processes = {n: psutil.Process(pid) for n, pid in pids.items()}
    before = {n: (time.monotonic(), sum(p.cpu_times()[:2])) for n, p in processes.items()}
    await asyncio.sleep(seconds)
    found: dict[str, Any] = {}
    for name, process in processes.items():
        since, used = before[name]
        core = (sum(process.cpu_times()[:2]) - used) / (time.monotonic() - since)
        rss_mb = process.memory_info().rss / 1e6
        await stack.stop(name)
        starts = await frame_starts(stack, name)
        late = [at - starts[0] - i * names[name] for i, at in enumerate(starts)]
        found[name] = {
            "core_pct": 100 * core, "rss_mb": rss_mb, "frames": len(starts),
            "expected_frames": round((starts[-1] - starts[0]) / names[name]) + 1,
            "drift_ms": 1e3 * (statistics.median(late[-5:]) - statistics.median(late[:5])),
            "latest_ms": 1e3 * max(late),
        }  # fmt: skip
    return found


async def first_frame(stack: Stack, node: str) -> None:
    """Wait until a node told something. Raises TimeoutError with the end of its agent's log."""
    until = time.monotonic() + 40
    while await stack.client.fleet.frame(node) is None:
        if time.monotonic() > until:
            raise TimeoutError(f"{node} sent nothing: {stack.tail(node)}")
        await asyncio.sleep(0.2)


async def frame_starts(stack: Stack, node: str) -> list[float]:
    """When each sample of a node began, in seconds."""
    js = stack.client.nc.jetstream()
    subscription = await js.pull_subscribe(subjects.frames(node), stream="TELEMETRY")
    starts: list[float] = []
    while True:
        try:
            starts += [decode(m.data).start_us / 1e6 for m in await subscription.fetch(500, timeout=1)]
        except TimeoutError:
            return starts

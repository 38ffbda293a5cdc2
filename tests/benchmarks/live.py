"""Replay a trace against the running product: the learned policy beside queue lag, in one table.

    python -m tests.benchmarks.live [--short | --minutes M] [--trace FILE.csv [--start S] [--speedup X]] [--slack-s S]

Both policies run at the same time, each against a product of its own, so that a slow moment of the machine is the
same for both. Real worker processes run jobs that take as long as the trace says; each worker has a simulated GPU to
itself, which is busy while its worker is. A device counts from the moment at which its worker starts until it has
gone: what is switched off draws nothing. Caps are off for both, since a job that only waits would not feel them. The
first half of each run is what the twin is told, the second half is what it has to foretell.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from services.scheduler.domain.policies import policy_maker
from services.scheduler.domain.power_curves import curve_of
from services.scheduler.twin.calibration import pool_model
from services.scheduler.twin.play import play
from services.scheduler.twin.twin import Trace
from services.scheduler.twin.workloads import Shape, random_arrivals
from shared.client import AutopilotClient
from shared.messages.commands import FleetPolicy, PoolPolicy
from shared.messages.telemetry import SimulationRequest
from tests.support.product import running_product

DEVICES, PERIOD_S = 8, 2.0
LOOK_S, FEWEST_JOBS = 0.5, 20


@dataclass
class Run:
    """What one policy did."""

    joules: list[tuple[float, float]] = field(default_factory=list)  # seconds into the run, joules since the last look
    starts: int = 0
    late: int = 0
    done: int = 0
    waits_s: list[float] = field(default_factory=list)
    load_s: list[float] = field(default_factory=list)


def generated(length_s: float) -> Trace:
    """Bursts and silences like those of published LLM traces, from a seed."""
    random = np.random.default_rng(5)
    shape = Shape(0.45, 0.5, 300.0, 60.0, 60.0, 0.0, 4.0, 3.0)
    arrival_s = random_arrivals(random, shape, length_s)
    return Trace(arrival_s, np.clip(4.0 * random.lognormal(0.0, 0.6, len(arrival_s)), 0.2, 30.0))


def read(path: Path, start_s: float, speedup: float, length_s: float) -> Trace:
    with path.open() as file:
        rows = [((float(r["arrival_s"]) - start_s) / speedup, float(r["work_s"])) for r in csv.DictReader(file)]
    arrival_s, work_s = np.array(sorted(rows)).T
    inside = (arrival_s >= 0) & (arrival_s < length_s)
    return Trace(arrival_s[inside], np.minimum(work_s, 60.0)[inside])


async def both(trace: Trace, slack_s: float) -> dict[str, Run]:
    """Learned, and the rule of most peers."""
    environment = {
        "AUTOPILOT_DECIDE_PERIOD_S": str(PERIOD_S), "AUTOPILOT_POOL_KINDS": '["echo"]', "AUTOPILOT_POOL_INITIAL": "1",
        "AUTOPILOT_CPU": "never",
    }  # fmt: skip
    names = ("learned", "queue_lag")
    async with AsyncExitStack() as stack:
        clients = []
        for _ in names:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="autopilot-bench-")))
            _, client = await stack.enter_async_context(running_product(folder, environment, simulate=DEVICES))
            clients.append(client)
        runs = await asyncio.gather(*(replay(*pair, trace, slack_s) for pair in zip(names, clients, strict=True)))
    return dict(zip(names, runs, strict=True))


async def replay(policy: str, client: AutopilotClient, trace: Trace, slack_s: float) -> Run:
    """The trace against a fresh product."""
    bounds = PoolPolicy(
        floor=0, ceiling=DEVICES, step_up=DEVICES, step_down=DEVICES, scale_down_after_s=0.0,
        target_wait_s=slack_s, policy=policy, actions_per_min=60,
    )  # fmt: skip
    await client.steering.set_policy(FleetPolicy(cap_fraction=None, pools={"default": bounds}))
    run = Run()
    watching = asyncio.create_task(watch(client, run))
    await submit(client, trace, run, slack_s)
    watching.cancel()
    return run


async def submit(client: AutopilotClient, trace: Trace, run: Run, slack_s: float) -> None:
    """Each job at its time; then every result."""
    loop = asyncio.get_running_loop()
    began = loop.time()

    async def one(arrival_s: float, work_s: float) -> None:
        await asyncio.sleep(max(0.0, began + arrival_s - loop.time()))
        handle = await client.jobs.submit("echo", {"text": "x", "work_s": work_s})
        result = await client.jobs.wait(handle.id, 900)
        assert result.started_at is not None
        took_s = (result.finished_at - result.submitted_at).total_seconds()
        run.done += 1
        run.waits_s.append((result.started_at - result.submitted_at).total_seconds())
        run.late += took_s > max(2 * work_s, work_s + slack_s)

    await asyncio.gather(*(one(a, w) for a, w in zip(trace.arrival_s.tolist(), trace.work_s.tolist(), strict=True)))


async def watch(client: AutopilotClient, run: Run) -> None:
    """Devices are busy while their workers are; joules of those that have one are counted."""
    loop = asyncio.get_running_loop()
    began = before = loop.time()
    node = (await client.fleet.devices())[0].node
    busy: dict[str, bool] = {}
    seen: set[str] = set()
    starting: dict[str, float] = {}
    while True:
        await asyncio.sleep(LOOK_S)
        workers = [w for pool in await client.fleet.pools() for w in pool.workers]
        now = loop.time()
        for worker in workers:
            if worker.worker not in seen:
                seen.add(worker.worker)
                run.starts += 1
                starting[worker.worker] = now
            if worker.state == "ready" and worker.worker in starting:
                run.load_s.append(now - starting.pop(worker.worker))
        working = {w.device for w in workers if w.running}
        for device in {w.device for w in workers} | set(busy):
            if busy.get(device) != (device in working):
                busy[device] = device in working
                util = 1.0 if busy[device] else 0.0
                await client.steering.simulate(node, SimulationRequest(device=device, util=util))
        sample = {v.info.device: v.sample.get("power_w", 0.0) for v in await client.fleet.devices()}
        watts = sum(sample.get(device, 0.0) for device in {w.device for w in workers})
        run.joules.append((now - began, watts * (now - before)))
        before = now


def foretold(policy: str, run: Run, trace: Trace, length_s: float, slack_s: float) -> float | None:
    """The twin's joules of the second half against what was measured there, as a share above or below.

    None where a half has too few jobs to say.
    """
    half = length_s / 2
    if min(len(before(trace, half).work_s), len(trace.since(half).work_s)) < FEWEST_JOBS:
        return None
    curve = curve_of("", 250.0, 250.0 * 0.999)
    load_s = np.array(run.load_s or [2.0])
    model = pool_model(curve, ceiling=DEVICES, slack_s=slack_s, load_s=load_s, interval_s=PERIOD_S, step_s=0.25)
    first, second = (sum(j for at_s, j in run.joules if low <= at_s < low + half) for low in (0.0, half))
    told = play(policy_maker(policy), [model, model], [before(trace, half), trace.since(half)], 0).joules
    # What a watt of the twin is worth here was learnt from the first half.
    return round(float(told[1] * (first / told[0]) / second - 1.0), 3)


def before(trace: Trace, end_s: float) -> Trace:
    inside = trace.arrival_s < end_s
    return Trace(trace.arrival_s[inside], trace.work_s[inside])


def main() -> None:
    ask = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    ask.add_argument("--short", action="store_true")
    ask.add_argument("--minutes", type=float, default=60.0)
    ask.add_argument("--trace", type=Path)
    ask.add_argument("--speedup", type=float, default=1.0)
    ask.add_argument("--start", type=float, default=0.0, help="seconds of the trace that are left out")
    ask.add_argument("--slack-s", type=float, default=15.0, help="how long a job may take beyond its work")
    a = ask.parse_args()
    length_s = 20.0 if a.short else a.minutes * 60
    trace = read(a.trace, a.start, a.speedup, length_s) if a.trace else generated(length_s)
    table = {}
    for policy, run in asyncio.run(both(trace, a.slack_s)).items():
        joules = sum(j for _, j in run.joules)
        table[policy] = {
            "jobs": run.done, "in_time": round(1 - run.late / run.done, 4), "joules": round(joules),
            "starts": run.starts, "wait_p99_s": round(float(np.quantile(run.waits_s, 0.99)), 2),
            "twin_error": foretold(policy, run, trace, length_s, a.slack_s),
        }  # fmt: skip
        print(policy, table[policy])
    value, baseline = table["learned"]["joules"], table["queue_lag"]["joules"]
    print(
        json.dumps(
            {
                "name": "live", "value": value, "unit": "J", "baseline": baseline,
                "ratio": round(value / baseline, 3), "seconds": length_s, "policies": table,
            }
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()

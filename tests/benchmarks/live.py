"""Replay a trace against the running product: the learned policy beside queue lag, in one table.

    python -m tests.benchmarks.live [--short | --minutes M] [--trace FILE.csv [--start S] [--speedup X]] [--slack-s S]

Both policies run at the same time, each against a product of its own, so that a slow moment of the machine is the
same for both. Real worker processes run jobs that take as long as the trace says; each worker has a simulated GPU to
itself, which is busy while its worker is. A device counts from the moment at which its worker starts until it has
gone: what is switched off draws nothing. Caps slow jobs down as the device's curve says; queue lag sets none. The
twin is calibrated from the product's database over the first half of each run, and has to foretell the second half.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import numpy as np

from accelerator_autopilot.client import AutopilotClient
from accelerator_autopilot.contracts.messages.commands import FleetPolicy, PoolPolicy
from accelerator_autopilot.contracts.messages.telemetry import SimulationRequest
from accelerator_autopilot.deploy.local.product import EmbeddedProduct
from accelerator_autopilot.scheduler.adapters.database_history import read_past
from accelerator_autopilot.scheduler.application.twin_replay import past_pools
from accelerator_autopilot.scheduler.domain.fleet_history import FleetHistory
from accelerator_autopilot.scheduler.policies.builtin import policy_maker
from accelerator_autopilot.scheduler.twin.rollout import play
from accelerator_autopilot.scheduler.twin.simulation import Trace
from accelerator_autopilot.scheduler.twin.workloads import Shape, random_arrivals
from accelerator_autopilot.transport.clock import utc_now
from tests.support.product import running_product

DEVICES, PERIOD_S = 8, 2.0
LOWEST_CAP = 0.5  # of a device's default
CHECK_INTERVAL_S, MIN_JOBS = 0.5, 20


@dataclass
class Run:
    """What one policy did."""

    joules: list[tuple[float, float]] = field(default_factory=list)  # seconds into the run, joules since the last look
    starts: int = 0
    late: int = 0
    done: int = 0
    waits_s: list[float] = field(default_factory=list)
    twin_error: float | None = None


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


async def both(trace: Trace, slack_s: float, length_s: float) -> dict[str, Run]:
    """Learned, and the rule of most peers."""
    environment = {
        "AUTOPILOT_DECISION_INTERVAL_S": str(PERIOD_S),
        "AUTOPILOT_POOL_KINDS": '["echo"]', "AUTOPILOT_INITIAL_WORKERS": "1",
        "AUTOPILOT_CPU": "never",
    }  # fmt: skip
    names = ("learned", "queue_lag")
    async with AsyncExitStack() as stack:
        products = []
        for _ in names:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="autopilot-bench-")))
            products.append(await stack.enter_async_context(running_product(folder, environment, simulate=DEVICES)))
        runs = await asyncio.gather(
            *(replay(name, *its, trace, slack_s, length_s) for name, its in zip(names, products, strict=True))
        )
    return dict(zip(names, runs, strict=True))


async def replay(
    policy: str, product: EmbeddedProduct, client: AutopilotClient, trace: Trace, slack_s: float, length_s: float
) -> Run:
    """The trace against a fresh product."""
    bounds = PoolPolicy(
        floor=0, ceiling=DEVICES, step_up=DEVICES, step_down=DEVICES, scale_down_after_s=0.0,
        target_wait_s=slack_s, policy=policy, actions_per_min=60,
    )  # fmt: skip
    fleet = FleetPolicy(cap_fraction=LOWEST_CAP, pools={"default": bounds})
    await client.steering.set_policy(fleet)
    run, began = Run(), utc_now()
    watching = asyncio.create_task(watch(client, run))
    await submit(client, trace, run, slack_s)
    watching.cancel()
    assert product.runtime is not None
    first_half = await read_past(product.runtime.database_url, began, began + timedelta(seconds=length_s / 2))
    run.twin_error = foretold(policy, first_half, fleet, run, trace, length_s)
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
    while True:
        await asyncio.sleep(CHECK_INTERVAL_S)
        workers = [w for pool in await client.fleet.pools() for w in pool.workers]
        now = loop.time()
        for worker in workers:
            if worker.worker not in seen:
                seen.add(worker.worker)
                run.starts += 1
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


def foretold(
    policy: str, first_half: FleetHistory, fleet: FleetPolicy, run: Run, trace: Trace, length_s: float
) -> float | None:
    """The twin's joules of the second half against what was measured there, as a share above or below.

    None where a half has too few jobs to say.
    """
    half_s = length_s / 2
    if min(len(first_half.jobs.kind), len(trace.since(half_s).work_s)) < MIN_JOBS:
        return None
    (pool,) = past_pools(first_half, fleet, None, None)
    model = replace(pool.model, interval_s=PERIOD_S)
    measured = sum(joules for at_s, joules in run.joules if at_s >= half_s)
    # From the beginning, so that it comes to the second half with what a policy remembers and has running.
    course = play(policy_maker(policy), [model], [trace], 0).course
    return round(float(course[round(half_s / PERIOD_S) :, 0].sum() / measured - 1.0), 3)


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
    for policy, run in asyncio.run(both(trace, a.slack_s, length_s)).items():
        joules = sum(j for _, j in run.joules)
        table[policy] = {
            "jobs": run.done, "in_time": round(1 - run.late / run.done, 4), "joules": round(joules),
            "starts": run.starts, "wait_p99_s": round(float(np.quantile(run.waits_s, 0.99)), 2),
            "twin_error": run.twin_error,
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

"""Jobs for minutes while workers, broker and database are killed at random: each job ends once, none is lost.

Every job has one result or one dead letter; memory of the processes that live on is flat. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import nats.errors
import psutil

from accelerator_autopilot.client import AutopilotClient
from accelerator_autopilot.contracts.errors import AutopilotError
from accelerator_autopilot.deploy.local.product import EmbeddedProduct
from tests.support.product import query, running_product

VICTIMS = ("worker", "worker", "nats", "postgres", "pool", "recorder")
FAILING_EVERY = 50
WINDOW = 400
SETTLE_S = 180.0


def victim_pid(product: EmbeddedProduct, name: str, dice: random.Random) -> int | None:
    """A process to kill; a worker is a child of the pool."""
    if name == "postgres":
        return product.postgres.pid
    pid = product.processes["pool" if name == "worker" else name].pid
    if pid is None or name != "worker":
        return pid
    try:
        children = psutil.Process(pid).children()
    except psutil.NoSuchProcess:
        return None
    return dice.choice(children).pid if children else None


async def submit(client: AutopilotClient, index: int) -> None:
    """Submit one job until it is confirmed; every so many is one that fails for good."""
    payload = {"text": f"{index}"} | ({"fail": "permanently"} if index % FAILING_EVERY == 0 else {})
    while True:
        try:
            await client.jobs.submit("echo", payload, job_id=f"soak.{index}")
        except (AutopilotError, OSError):
            await asyncio.sleep(0.2)
        else:
            return


async def kill(product: EmbeddedProduct, times: int, seconds: float, dice: random.Random) -> list[str]:
    killed: list[str] = []
    pause = seconds / (times + 1)
    for _ in range(times):
        await asyncio.sleep(pause * dice.uniform(0.7, 1.3))
        name = dice.choice(VICTIMS)
        pid = victim_pid(product, name, dice)
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
            killed.append(name)
    return killed


async def run(jobs: int, seconds: float, kills: int, seed: int) -> dict[str, Any]:
    dice = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="autopilot-soak-") as folder:
        async with running_product(Path(folder), {"AUTOPILOT_INITIAL_WORKERS": "2"}) as (product, client):
            await client.jobs.submit("echo", {}, job_id="first")
            await client.jobs.wait("first", 60)
            killing = asyncio.create_task(kill(product, kills, seconds, dice))
            began = time.monotonic()
            rss_before = memory(product)
            position = iter(range(jobs))

            async def publisher() -> None:
                for index in position:
                    # At an even pace over the whole time, however long the outages.
                    await asyncio.sleep(max(0.0, began + seconds * index / jobs - time.monotonic()))
                    await submit(client, index)

            await asyncio.gather(*(publisher() for _ in range(WINDOW)))
            killed = await killing
            until = time.monotonic() + SETTLE_S
            while time.monotonic() < until:
                try:
                    if await client.fleet.queue_depth() == 0:
                        break
                except (AutopilotError, OSError, nats.errors.Error):
                    await asyncio.sleep(0.5)
                await asyncio.sleep(1.0)
            results = (await client.js.stream_info("RESULTS", subjects_filter="results.soak.*")).state.subjects or {}
            expected_dead = len(range(0, jobs, FAILING_EVERY))
            dead = {d.id for d in await client.dead.list("echo", limit=100_000)}
            rows = await recorded(product, jobs)
            took = time.monotonic() - began
            rss = memory(product)
    return {
        "name": "soak", "value": jobs - len(results), "unit": "jobs lost", "baseline": jobs,
        "ratio": (jobs - len(results)) / jobs, "doubled": sum(n > 1 for n in results.values()),
        "dead": len(dead), "dead_expected": expected_dead, "rows": rows, "kills": len(killed),
        "killed": {name: killed.count(name) for name in sorted(set(killed))}, "seconds": round(took, 1),
        "rss_mb_before": rss_before, "rss_mb_after": rss, "seed": seed,
    }  # fmt: skip


async def recorded(product: EmbeddedProduct, jobs: int) -> int:
    """Rows of the jobs in the database, once they are all there or a minute has passed."""
    until = time.monotonic() + 60
    while True:
        try:
            (row,) = await query(product.postgres.url, "SELECT count(*) AS n FROM jobs WHERE id LIKE 'soak.%'")
        except OSError:
            row = {"n": 0}
        if row["n"] >= jobs or time.monotonic() > until:
            return int(row["n"])
        await asyncio.sleep(1.0)


def memory(product: EmbeddedProduct) -> dict[str, float]:
    """Resident megabytes of the processes that are not killed."""
    found = {}
    for name, process in product.processes.items():
        if name in {"agent", "anomaly", "gateway", "scheduler", "notifier"} and process.pid:
            found[name] = round(psutil.Process(process.pid).memory_info().rss / 1e6, 1)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="half a minute, 3,000 jobs, 5 kills")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    scale = (3_000, 30.0, 5) if arguments.short else (100_000, 600.0, 60)
    print(json.dumps(asyncio.run(run(*scale, arguments.seed))))


if __name__ == "__main__":
    main()

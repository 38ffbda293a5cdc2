"""One round of the scheduler for a fleet of 1,000 pools and 100,000 devices on one core, with a real nats-server.

    python -m tests.benchmarks.decide [--short] [--sync always]

In each round all nodes send a frame, all pools tell their status, a tenth of the pools changes, and a hundredth of the
nodes tells its inventory anew. A round is measured from the last frame received until the last command was confirmed:
frames, buckets and queues are read, every policy looks at every pool, pools and caps are commanded. `cpu_ms` is what
that took of a core, `receiving_cpu_ms` what nats-py took to receive the frames before. `blocked_ms` is the longest time
for which the event loop served nobody, by the clock; `blocked_cpu_ms` the same in the loop's own work, which on a busy
machine is the one to look at. The baseline is how readings were taken before: a dictionary of every metric of every
device, four times a round.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections import Counter as Counts
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import nats
import numpy as np
from nats.aio.client import Client
from nats.aio.msg import Msg
from prometheus_client import CollectorRegistry, Counter

from services.scheduler.acting import Actor
from services.scheduler.adapters.fleet_reader import READ_METRICS, FleetReader
from services.scheduler.adapters.newest_frames import NewestFrames
from services.scheduler.app import settle_memory
from services.scheduler.deciding import Decider
from services.scheduler.device_deciding import DeviceDecider
from services.scheduler.domain.champion import Championship
from services.scheduler.domain.device_columns import DeviceColumns
from services.scheduler.domain.governor import Governor
from services.scheduler.domain.panel import Panel
from services.scheduler.domain.policies import policy_maker
from services.scheduler.pool_deciding import PoolDecider
from services.scheduler.settings import SchedulerSettings
from shared import streams, subjects
from shared.broker import client_of, expect_close, make_broker
from shared.bus import Bus
from shared.clock import utc_now
from shared.frames import TelemetryFrame, decode, encode
from shared.messages.commands import FleetPolicy, PoolPolicy, PowerBudget, PowerCommand, ScaleCommand
from shared.messages.jobs import PRIORITIES, PoolStatus, WorkerStatus
from shared.messages.telemetry import NodeInventory
from shared.metrics_catalogue import NAMES
from tests.support.broker import bench_broker
from tests.support.builders import device

NODE_DEVICES, POOL_DEVICES, POOL_WORKERS = 8, 100, 4
CHANGING, REPORTING = 0.1, 0.01
KINDS = 250  # a server takes 1,000 consumers; more pools share them
BURST = 40  # jobs that a changing pool gets
WARM_UP = 4
METRICS = tuple(dict.fromkeys((*READ_METRICS, *NAMES)))[:24]
ROUND = "bench.round"
DEVICES = tuple(f"gpu-{i}" for i in range(NODE_DEVICES))


@dataclass
class Fleet:
    """What nodes and pools tell, in a process of its own; it does as it is commanded."""

    nc: Client
    pools: int
    number: int = 0
    started: datetime = field(default_factory=utc_now)
    done: Counts[int] = field(default_factory=Counts)
    desired: dict[str, int] = field(default_factory=dict)
    caps_w: dict[tuple[str, str], float] = field(default_factory=dict)

    @property
    def nodes(self) -> int:
        """How many."""
        return self.pools * POOL_DEVICES // NODE_DEVICES

    def home(self, pool: int) -> str:
        """The node of a pool's workers."""
        return f"n{pool * self.nodes // self.pools}"

    async def prepare(self) -> None:
        """Inventories, consumers of every kind, and an ear for commands."""
        js = self.nc.jetstream(timeout=60)
        for node in range(self.nodes):
            await self.nc.publish(f"$KV.inventory.n{node}", self.inventory(node, ""))
        for kind in range(min(KINDS, self.pools)):
            for priority in PRIORITIES:
                await js.add_consumer("JOBS", streams.job_durable(f"k{kind}", priority))
        await self.nc.subscribe(subjects.SCALE_COMMANDS, cb=self.on_scale)
        await self.nc.subscribe("commands.power.*.*", cb=self.on_power)
        await self.nc.flush()

    async def on_scale(self, message: Msg) -> None:
        """A pool changes its size."""
        command = ScaleCommand.model_validate_json(message.data)
        self.desired[command.pool] = command.replicas

    async def on_power(self, message: Msg) -> None:
        """A device changes its cap."""
        command = PowerCommand.model_validate_json(message.data)
        self.caps_w[command.node, command.device] = command.cap_w or 250.0

    async def on_round(self, message: Msg) -> None:
        """Tell everything once; answer when the server has it."""
        random = np.random.default_rng(self.number)
        js = self.nc.jetstream(timeout=60)
        changing = max(1, int(self.pools * CHANGING))
        for pool in range(self.number * changing, (self.number + 1) * changing):
            kind = f"k{pool % self.pools % KINDS}"
            self.done[pool % self.pools] += 10
            if pool // self.pools % 2:
                await js.purge_stream("JOBS", subject=subjects.jobs_of(kind, "normal")[0])
                await js.purge_stream("JOBS", subject=subjects.jobs_of(kind, "normal")[1])
                continue
            for job in range(BURST):
                await self.nc.publish(subjects.job(kind, "normal", f"{self.number}-{job}"), b"{}")
        for pool in range(self.pools):
            part = self.part(pool)
            await self.nc.publish(f"$KV.pools.{part.pool}.{part.node}", part.model_dump_json().encode())
        for node in random.integers(0, self.nodes, max(1, int(self.nodes * REPORTING))).tolist():
            await self.nc.publish(f"$KV.inventory.n{node}", self.inventory(node, f"boot-{self.number}"))
        await self.nc.flush()
        last = await js.stream_info("KV_pools")
        for node in range(self.nodes):
            await self.nc.publish(subjects.frames(f"n{node}"), self.frame(node, random))
        await self.nc.flush()
        self.number += 1
        await message.respond(str(last.state.last_seq).encode())

    def part(self, pool: int) -> PoolStatus:
        """A pool's status."""
        workers = [
            WorkerStatus(
                worker=f"p{pool}-{i}", device=DEVICES[i], pid=i + 1, state="ready", started_at=self.started,
                jobs_done=self.done[pool], busy_s=float(self.done[pool]), running=["j"], models=["m"],
            )
            for i in range(POOL_WORKERS)
        ]  # fmt: skip
        desired = self.desired.get(f"p{pool}", POOL_WORKERS)
        return PoolStatus(
            pool=f"p{pool}",
            node=self.home(pool),
            at=utc_now(),
            desired=desired,
            kinds=[f"k{pool % KINDS}"],
            workers=workers,
        )

    def inventory(self, node: int, boot_id: str) -> bytes:
        """A node's devices."""
        told = NodeInventory(
            node=f"n{node}", at=utc_now(), period_s=1.0, boot_id=boot_id, devices=[device(device=d) for d in DEVICES]
        )
        return told.model_dump_json().encode()

    def frame(self, node: int, random: np.random.Generator) -> bytes:
        """A node's newest tick."""
        values = random.random((1, NODE_DEVICES, len(METRICS)), np.float32) * 90
        values[0, :, METRICS.index("power_cap_w")] = [self.caps_w.get((f"n{node}", d), 250.0) for d in DEVICES]
        at_us = int(utc_now().timestamp() * 1e6)
        return encode(
            TelemetryFrame(f"n{node}", at_us, 1.0, DEVICES, METRICS, values, 100_000 + self.number, at_us // 10**9)
        )


class LoopWatch:
    """The longest time for which the event loop served nobody."""

    def __init__(self) -> None:
        self.longest_s = 0.0  # of the clock, which on a busy machine runs while others work
        self.longest_cpu_s = 0.0  # of this thread's own work

    async def run(self) -> None:
        """Until cancelled."""
        before, cpu = time.perf_counter(), time.thread_time()
        while True:
            await asyncio.sleep(0.001)
            now, cpu_now = time.perf_counter(), time.thread_time()
            self.longest_s = max(self.longest_s, now - before - 0.001)
            self.longest_cpu_s = max(self.longest_cpu_s, cpu_now - cpu)
            before, cpu = now, cpu_now


def baseline_s(frames: list[TelemetryFrame]) -> float:
    """Seconds of CPU for the readings of one round as they were taken before."""
    began = time.process_time()
    for _ in range(4):
        {
            (frame.node, name): sample["power_w"]
            for frame in frames
            for name, sample in frame.latest().items()
            if "power_w" in sample
        }
    return time.process_time() - began


def make_decider(bus: Bus, reader: FleetReader) -> Decider:
    """As the service makes it."""
    counter = Counter("decisions", "by reason", ["reason"], registry=CollectorRegistry())
    actor = Actor(bus, utc_now, counter)
    settings = SchedulerSettings()
    panel = Panel({name: policy_maker(name) for name in settings.panel}, settings.decide_period_s)
    championship = Championship(settings.policy_name, settings.fallback_policy)
    return Decider(reader, PoolDecider(actor, panel, Governor(), championship), DeviceDecider(actor, 60.0))


async def measure(pools: int, rounds: int, environment: Mapping[str, str], nc: Client) -> dict[str, Any]:
    """Rounds against a fleet in another process."""
    settings = SchedulerSettings(nats_url=environment["AUTOPILOT_NATS_URL"], nats_user="bench", nats_password="bench")
    broker = make_broker(settings, "bench", CollectorRegistry())
    await broker.start()
    bus = Bus(broker)
    frames = NewestFrames(
        DeviceColumns(READ_METRICS), lambda: utc_now().timestamp(), settings.stale_after_s, CollectorRegistry()
    )
    reader = FleetReader(bus.js, settings.stale_after_s, frames)
    decider, watch, received = make_decider(bus, reader), LoopWatch(), [0]
    watching = asyncio.create_task(watch.run())

    async def take(message: Msg) -> None:
        received[0] += 1
        await frames.take(message)

    await client_of(broker).subscribe(subjects.FRAMES, cb=take)
    nodes = pools * POOL_DEVICES // NODE_DEVICES
    bounds = PoolPolicy(ceiling=16, scale_down_after_s=0.0)
    policy = FleetPolicy(
        power="all",
        budgets=[PowerBudget(watts=260.0 * pools * POOL_DEVICES)],
        pools={f"p{i}": bounds for i in range(pools)},
    )
    await bus.write("policy", "fleet", policy)
    told: list[dict[str, float]] = []
    for number in range(WARM_UP + rounds):
        received[0], before = 0, (await bus.js.stream_info("COMMANDS")).state.last_seq
        asked, cpu = time.perf_counter(), time.process_time()
        answer = asyncio.create_task(nc.request(ROUND, b"", timeout=120))
        while received[0] < nodes:
            await asyncio.sleep(0.001)
        await answer
        watch.longest_s, watch.longest_cpu_s, receiving_cpu = 0.0, 0.0, time.process_time() - cpu
        began, cpu = time.perf_counter(), time.process_time()
        await decider.decide(1)
        if number == 0:
            settle_memory()
        took = {
            "wall_ms": 1e3 * (time.perf_counter() - began),
            "cpu_ms": 1e3 * (time.process_time() - cpu),
            "receiving_cpu_ms": 1e3 * receiving_cpu,
            "blocked_ms": 1e3 * watch.longest_s,
            "blocked_cpu_ms": 1e3 * watch.longest_cpu_s,
            "commands": (await bus.js.stream_info("COMMANDS")).state.last_seq - before,
        }
        print(f"# round {number}", {k: round(v, 1) for k, v in took.items()}, file=sys.stderr)
        told.append(took)
        await asyncio.sleep(max(0.0, asked + 2.0 - time.perf_counter()))
    watching.cancel()
    sample = [decode(data) for data in samples_of(nodes)]
    before_s = baseline_s(sample)
    expect_close()
    await broker.stop()
    steady = told[WARM_UP:]

    def median(name: str) -> float:
        return round(float(np.median([each[name] for each in steady])), 1)

    return {
        "value": median("wall_ms"), "baseline": round(1e3 * before_s, 1),
        "ratio": round(median("wall_ms") / 1e3 / before_s, 3), "cpu_ms": median("cpu_ms"),
        "max_ms": round(max(each["wall_ms"] for each in steady), 1), "receiving_cpu_ms": median("receiving_cpu_ms"),
        "blocked_ms": round(max(each["blocked_ms"] for each in steady), 1),
        "blocked_cpu_ms": round(max(each["blocked_cpu_ms"] for each in steady), 1),
        "commands": median("commands"),
        "load": round(os.getloadavg()[0], 1),
        "first_ms": round(told[0]["wall_ms"], 1), "first_blocked_ms": round(told[0]["blocked_ms"], 1),
    }  # fmt: skip


def samples_of(nodes: int) -> Any:
    """Frames of every node."""
    random, fleet = np.random.default_rng(0), Fleet(None, nodes * NODE_DEVICES // POOL_DEVICES)  # type: ignore[arg-type]
    return (fleet.frame(node, random) for node in range(nodes))


async def be_fleet(url: str, pools: int) -> None:
    """The other process."""
    nc = await nats.connect(url)
    fleet = Fleet(nc, pools)
    await fleet.prepare()
    await nc.subscribe(ROUND, cb=fleet.on_round)
    print("ready", flush=True)
    await asyncio.Event().wait()


async def run(pools: int, rounds: int, sync: str) -> dict[str, Any]:
    """A broker, a fleet, and rounds."""
    with tempfile.TemporaryDirectory(prefix="autopilot-bench-", ignore_cleanup_errors=True) as name:
        async with bench_broker(Path(name), sync) as broker:
            url = broker.environment["AUTOPILOT_NATS_URL"].replace("//", "//bench:bench@")
            command = [sys.executable, "-m", "tests.benchmarks.decide", "--fleet", url, "--pools", str(pools)]
            fleet = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
            try:
                if fleet.stdout is None or b"ready" not in await fleet.stdout.readline():
                    raise RuntimeError("the fleet did not start")
                told = await measure(pools, rounds, broker.environment, broker.nc)
            finally:
                fleet.kill()
                await fleet.wait()
    return {"name": "decide", "unit": "ms", "sync": sync, "pools": pools, "devices": pools * POOL_DEVICES, **told}


def main() -> None:
    """Run it."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--short", action="store_true")
    ask.add_argument("--sync", default="2m", help="how often the server syncs its disk; always: at every command")
    ask.add_argument("--fleet", help=argparse.SUPPRESS)
    ask.add_argument("--pools", type=int, default=1000)
    arguments = ask.parse_args()
    if arguments.fleet:
        asyncio.run(be_fleet(arguments.fleet, arguments.pools))
        return
    pools, rounds = (100, 4) if arguments.short else (arguments.pools, 10)
    print(json.dumps(asyncio.run(run(pools, rounds, arguments.sync))))


if __name__ == "__main__":
    main()

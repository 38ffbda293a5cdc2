"""The fleet of the benchmark `decide`: what nodes and pools tell, in a process of its own; it does as it is commanded.

Four pools take jobs of the same kind. In each round a tenth of the kinds turns: one that is calm gets a burst of jobs,
one that is busy is emptied. So a tenth of the pools changes, each once, and their workers' counts with them.
"""

from __future__ import annotations

import asyncio
from collections import Counter as Counts
from dataclasses import dataclass, field
from datetime import datetime

import nats
import numpy as np
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext

from accelerator_autopilot.contracts import streams, subjects
from accelerator_autopilot.contracts.frames import TelemetryFrame, encode
from accelerator_autopilot.contracts.messages.commands import PoolPolicy, PowerCommand, ScaleCommand
from accelerator_autopilot.contracts.messages.jobs import PRIORITIES, PoolStatus, WorkerStatus
from accelerator_autopilot.contracts.messages.telemetry import NodeInventory
from accelerator_autopilot.contracts.metric_catalogue import NAMES
from accelerator_autopilot.scheduler.adapters.observation_reader import READ_METRICS
from accelerator_autopilot.transport.clock import utc_now
from tests.support.builders import device

NODE_DEVICES, POOL_DEVICES, POOL_WORKERS = 8, 100, 4
POOLS_A_KIND = 4
CHANGING, REPORTING = 0.1, 0.01
BURST = 40  # jobs of a kind that becomes busy
METRICS = tuple(dict.fromkeys((*READ_METRICS, *NAMES)))[:24]
DEVICES = tuple(f"gpu-{i}" for i in range(NODE_DEVICES))
ROUND = "bench.round"
# A pool goes from one size to the other in one step, so that each change of its load is one command.
BOUNDS = PoolPolicy(
    floor=POOL_WORKERS, ceiling=2 * POOL_WORKERS, step_up=2 * POOL_WORKERS, step_down=2 * POOL_WORKERS,
    scale_down_after_s=0.0,
)  # fmt: skip


@dataclass
class Fleet:
    """`number` counts the rounds."""

    pools: int
    number: int = 0
    started: datetime = field(default_factory=utc_now)
    done: Counts[int] = field(default_factory=Counts)
    busy: set[int] = field(default_factory=set)  # kinds
    desired: dict[str, int] = field(default_factory=dict)
    caps_w: dict[tuple[str, str], float] = field(default_factory=dict)

    @property
    def nodes(self) -> int:
        """How many."""
        return self.pools * POOL_DEVICES // NODE_DEVICES

    @property
    def kinds(self) -> int:
        """How many."""
        return max(1, self.pools // POOLS_A_KIND)

    def turning(self) -> list[int]:
        """The kinds of this round; in the first, so many that half of all are busy from then on."""
        if self.number == 0:
            return list(range(0, self.kinds, 2))
        many = max(1, round(self.kinds * CHANGING))
        return [kind % self.kinds for kind in range((self.number - 1) * many, self.number * many)]

    async def prepare(self, nc: Client) -> None:
        """Inventories, consumers of every kind, and an ear for commands."""
        js = nc.jetstream(timeout=60)
        for node in range(self.nodes):
            await nc.publish(f"$KV.inventory.n{node}", self.inventory(node, ""))
        for kind in range(self.kinds):
            for priority in PRIORITIES:
                await js.add_consumer("JOBS", streams.job_durable(f"k{kind}", priority))
        await nc.subscribe(subjects.SCALE_COMMANDS, cb=self.on_scale)
        await nc.subscribe("commands.power.*.*", cb=self.on_power)
        await nc.flush(60)

    async def on_scale(self, message: Msg) -> None:
        """A pool changes its size."""
        command = ScaleCommand.model_validate_json(message.data)
        self.desired[command.pool] = command.replicas

    async def on_power(self, message: Msg) -> None:
        """A device changes its cap."""
        command = PowerCommand.model_validate_json(message.data)
        self.caps_w[command.node, command.device] = command.cap_w or 250.0

    async def tell(self, nc: Client) -> int:
        """Everything once; the last number of the stream of pools when the server has it."""
        random = np.random.default_rng(self.number)
        js = nc.jetstream(timeout=60)
        for kind in self.turning():
            await self.turn(nc, js, kind)
        for pool in range(self.pools):
            part = self.part(pool)
            await nc.publish(f"$KV.pools.{part.pool}.{part.node}", part.model_dump_json().encode())
        for node in random.integers(0, self.nodes, max(1, int(self.nodes * REPORTING))).tolist():
            await nc.publish(f"$KV.inventory.n{node}", self.inventory(node, f"boot-{self.number}"))
        await nc.flush(60)
        last = await js.stream_info("KV_pools")
        for node in range(self.nodes):
            await nc.publish(subjects.frames(f"n{node}"), self.frame(node, random))
        await nc.flush(60)
        self.number += 1
        return last.state.last_seq

    async def turn(self, nc: Client, js: JetStreamContext, kind: int) -> None:
        """A kind's queue becomes full or empty."""
        for pool in range(kind * POOLS_A_KIND, min((kind + 1) * POOLS_A_KIND, self.pools)):
            self.done[pool] += 10
        if kind in self.busy:
            self.busy.remove(kind)
            for subject in subjects.jobs_of(f"k{kind}", "normal"):
                await js.purge_stream("JOBS", subject=subject)
            return
        self.busy.add(kind)
        for job in range(BURST):
            await nc.publish(subjects.job(f"k{kind}", "normal", f"{self.number}-{job}"), b"{}")

    def part(self, pool: int) -> PoolStatus:
        """A pool's status."""
        workers = [
            WorkerStatus(
                worker=f"p{pool}-{i}", device=DEVICES[i], pid=i + 1, state="ready", started_at=self.started,
                jobs_done=self.done[pool], busy_s=float(self.done[pool]), running=["j"], models=["m"],
            )
            for i in range(POOL_WORKERS)
        ]  # fmt: skip
        return PoolStatus(
            pool=f"p{pool}", node=f"n{pool * self.nodes // self.pools}", at=utc_now(),
            desired=self.desired.get(f"p{pool}", POOL_WORKERS), kinds=[f"k{pool // POOLS_A_KIND}"], workers=workers,
        )  # fmt: skip

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


async def be_fleet(url: str, pools: int) -> None:
    """The process: it says `ready`, then tells a round whenever it is asked."""
    nc = await nats.connect(url)
    fleet = Fleet(pools)
    await fleet.prepare(nc)

    async def on_round(message: Msg) -> None:
        await message.respond(str(await fleet.tell(nc)).encode())

    await nc.subscribe(ROUND, cb=on_round)
    print("ready", flush=True)
    await asyncio.Event().wait()

"""Throwing at a running product, round by round, and taking back what an operator would take back."""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from dataclasses import dataclass, field

import nats
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.api import ConsumerInfo

from accelerator_autopilot.contracts.streams import STREAMS
from accelerator_autopilot.deploy.local.instance import Runtime
from tests.chaos.fuzz.targets import Shot, Target, all_targets

# What a valid message may rightly bring about for good: nobody is told, everybody is told, or nothing may be done.
TAKEN_BACK = ("silences", "subscriptions", "policy", "acknowledged")
MOST_BEHIND = 300


def asked_seed(usual: int) -> int:
    """AUTOPILOT_FUZZ_SEED plays a run again that failed."""
    return int(os.environ.get("AUTOPILOT_FUZZ_SEED", str(usual)))


def asked_seconds() -> float:
    """How long to throw beyond the rounds of the short form, by AUTOPILOT_FUZZ_MINUTES."""
    return 60 * float(os.environ.get("AUTOPILOT_FUZZ_MINUTES", "0"))


@dataclass
class Thrower:
    """One connection of its own, since a server cuts off who sends what no protocol knows."""

    runtime: Runtime
    seed: int
    sent: Counter[str] = field(default_factory=Counter)
    rounds: int = 0
    connections: int = 0
    _nc: Client | None = None

    async def round(self, each: int) -> None:
        """`each` messages to every target; the same round of a seed is the same messages, but for their times."""
        self.rounds += 1
        for target in all_targets():
            chance = random.Random(f"{self.seed} {self.rounds} {target.name}")
            for _ in range(each):
                await self._throw(target, target.make(chance))
        await (await self._connected()).flush(timeout=30)

    async def _connected(self) -> Client:
        if self._nc is None or self._nc.is_closed:
            self.connections += 1
            self._nc = await nats.connect(
                self.runtime.nats_url, user=self.runtime.nats_user, password=self.runtime.nats_password,
                max_reconnect_attempts=-1, reconnect_time_wait=0.1, error_cb=_quiet,
            )  # fmt: skip
        return self._nc

    async def _throw(self, target: Target, shot: Shot) -> None:
        nc = await self._connected()
        try:
            await nc.publish(shot.subject, shot.body, reply=shot.reply, headers=shot.headers)
        except (NatsError, ValueError):
            self.sent[f"{target.name} (refused by the client)"] += 1
        else:
            self.sent[target.name] += 1

    async def take_back(self) -> None:
        """Remove what was put into the buckets that rule over others."""
        js = (await self._connected()).jetstream(timeout=10)
        for bucket in TAKEN_BACK:
            found = (await js.stream_info(f"KV_{bucket}", subjects_filter=f"$KV.{bucket}.>")).state.subjects or {}
            for subject in found:
                await js.publish(subject, b"", headers={"KV-Operation": "DEL"})

    async def behind(self) -> int:
        """Messages that the slowest consumer has still before it; what no worker will take is not waited for."""
        js = (await self._connected()).jetstream(timeout=10)
        infos = [info for s in STREAMS if s.name != "LATER" for info in await js.consumers_info(s.name or "")]
        of_jobs = [i for i in infos if i.stream_name == "JOBS"]
        others = [i for i in infos if i.stream_name != "JOBS"]
        jobs = sum(_left(info) for info in of_jobs if info.name.startswith("pool-"))
        return max([jobs, *map(_left, others)])

    async def keeps_up(self) -> bool:
        """Whether nobody lies far behind."""
        return await self.behind() < MOST_BEHIND

    async def close(self) -> None:
        """Send no more."""
        if self._nc is not None:
            await self._nc.close()

    def report(self) -> str:
        """What was sent, and how to send it again."""
        head = f"AUTOPILOT_FUZZ_SEED={self.seed}: {self.rounds} rounds, {self.sent.total()} messages"
        lines = [f"{count:8} {name}" for name, count in sorted(self.sent.items())]
        return "\n".join([f"{head}, {self.connections} connections", *lines])


def _left(info: ConsumerInfo) -> int:
    return (info.num_pending or 0) + (info.num_ack_pending or 0)


async def _quiet(_: Exception) -> None:
    await asyncio.sleep(0)

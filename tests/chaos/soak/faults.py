"""Does what a fault says: signals to processes, links through proxies, streams and disks without room."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace

import nats.errors
from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy

from tests.chaos.soak.disks import Disk
from tests.chaos.soak.plan import Fault
from tests.chaos.soak.processes import Processes, send
from tests.chaos.soak.proxy import Condition, LinkProxy

STOPPED_S, RUNNING_S = 0.09, 0.01
WORKER_NAMES = "autopilot-worker"
POOL_NAMES = "autopilot-pool"
CONDITIONS: dict[str, Condition] = {"cut": "cut", "stall": "stalled", "throttle": "slow"}


@dataclass
class Injector:
    """Puts a fault in and takes it out again."""

    processes: Processes
    links: Mapping[str, LinkProxy]
    disks: Mapping[str, Disk]
    js: JetStreamContext
    _agent: int = field(default=0)

    def possible(self, fault: Fault) -> bool:
        """Whether it can be done here: disks need the right to mount."""
        return not fault.target.startswith("disk of ") or fault.target.removeprefix("disk of ") in self.disks

    @asynccontextmanager
    async def injected(self, fault: Fault) -> AsyncIterator[None]:
        """Hold the fault for its time or as long as the block takes."""
        if fault.kind in CONDITIONS:
            proxy, prefix = self._link(fault.target)
            proxy.set(CONDITIONS[fault.kind], prefix)
            try:
                yield
            finally:
                proxy.set("fine")
        elif fault.kind == "full":
            async with self._full(fault.target):
                yield
        elif fault.kind == "slow":
            slowing = asyncio.create_task(self._slow(self._process(fault.target)))
            try:
                yield
            finally:
                slowing.cancel()
                with suppress(asyncio.CancelledError):
                    await slowing
        elif fault.kind == "freeze":
            pids = self.processes.with_children(self._process(fault.target))
            send(pids, signal.SIGSTOP)
            try:
                yield
            finally:
                send(pids, signal.SIGCONT)
        else:
            name = self._process(fault.target)
            pid = self.processes.main(name)
            # PostgreSQL waits for its clients to leave at SIGTERM; those who stop it send SIGINT.
            asked = signal.SIGINT if name == "postgres" else signal.SIGTERM
            send([pid] if pid else [], signal.SIGKILL if fault.kind == "kill" else asked)
            yield

    def _process(self, target: str) -> str:
        """Faults of the agent go round all agents."""
        if target != "agent":
            return target
        agents = self.processes.agents()
        self._agent += 1
        return agents[self._agent % len(agents)]

    def _link(self, target: str) -> tuple[LinkProxy, str]:
        if target == "agent-nats":
            return self.links[f"{self._process('agent')}-nats"], ""
        if target in {"worker-nats", "pool-nats"}:
            # Workers inherit their pool's address; NATS clients say their names.
            return self.links["pool-nats"], WORKER_NAMES if target == "worker-nats" else POOL_NAMES
        return self.links[target], ""

    async def _slow(self, name: str) -> None:
        pids: list[int] = []
        try:
            while True:
                pids = self.processes.with_children(name)
                send(pids, signal.SIGSTOP)
                await asyncio.sleep(STOPPED_S)
                send(pids, signal.SIGCONT)
                await asyncio.sleep(RUNNING_S)
        finally:
            send(pids, signal.SIGCONT)

    @asynccontextmanager
    async def _full(self, target: str) -> AsyncIterator[None]:
        disk = self.disks.get(target.removeprefix("disk of "))
        if disk is not None:
            disk.fill()
            try:
                yield
            finally:
                disk.empty()
            return
        info = await _until_done(lambda: self.js.stream_info(target))
        narrow = replace(info.config, max_bytes=max(1, info.state.bytes), discard=DiscardPolicy.NEW)
        await _until_done(lambda: self.js.update_stream(narrow))
        try:
            yield
        finally:
            await _until_done(lambda: self.js.update_stream(info.config))


async def _until_done(ask, within_s: float = 60.0):
    until = time.monotonic() + within_s
    while True:
        try:
            return await ask()
        except (nats.errors.Error, TimeoutError, OSError):
            if time.monotonic() > until:
                raise
            await asyncio.sleep(0.2)

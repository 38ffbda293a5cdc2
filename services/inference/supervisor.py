"""The pool: keeps the wanted number of worker processes on healthy devices."""

from __future__ import annotations

import asyncio
import ctypes
import json
import logging
import os
import signal
import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from services.inference.device_group import DeviceGroup, group
from services.inference.domain.placement import plan
from services.inference.settings import PoolSettings
from services.inference.worker_state import BEGIN_ANEW
from shared.clock import utc_now
from shared.messages.jobs import PoolStatus, WorkerStatus
from shared.messages.telemetry import DeviceInfo

log = logging.getLogger(__name__)

RESTART_DELAY_S = (0.0, 0.5, 2.0, 5.0, 10.0)
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class BatchDelay:
    """How long a job waits for company, until when (on the loop's clock)."""

    seconds: float = 0.0
    until: float = 0.0


@dataclass
class WorkerProcess:
    """A worker as the pool sees it."""

    process: asyncio.subprocess.Process
    status: WorkerStatus
    reader: asyncio.Task[None] | None = None
    draining_since: float | None = None
    told: dict[str, float] = field(default_factory=dict)


@dataclass
class PoolSupervisor:
    """Starts, drains and replaces the workers of one pool on one node."""

    settings: PoolSettings
    desired: int
    devices: list[DeviceInfo] = field(default_factory=list)
    cordoned: set[str] = field(default_factory=set)
    shares: dict[str, float] = field(default_factory=dict)
    speeds: dict[str, float] = field(default_factory=dict)
    batch_delay: BatchDelay = field(default_factory=BatchDelay)
    restarts: int = 0
    _workers: dict[str, WorkerProcess] = field(default_factory=dict)
    _crashes: int = 0
    _start_after: float = 0.0

    async def run(self) -> None:
        """Reconcile until cancelled."""
        while True:
            await self.reconcile()
            await asyncio.sleep(0.1)

    async def reconcile(self) -> None:
        """One step towards what is wanted."""
        now = asyncio.get_running_loop().time()
        self._reap(now)
        active = {n: w.status.device for n, w in self._workers.items() if w.draining_since is None}
        groups = {g.name: g for g in group(self.devices, self.settings.devices_per_worker)}
        closed = {name for name, g in groups.items() if self.cordoned & {d.device for d in g.devices}}
        states = {name: self._workers[name].status for name in active}
        busy = {name for name, status in states.items() if status.running}
        starting = {name for name, status in states.items() if status.state == "starting"}
        changes = plan(self.desired, list(groups), closed, active, busy, starting)
        for name in changes.drain:
            self._drain(self._workers[name], now)
        if now >= self._start_after:
            for name in changes.start:
                await self._start(groups[name])
        self._tell(groups, now)
        for worker in self._workers.values():
            if worker.draining_since is not None and now - worker.draining_since > self.settings.drain_timeout_s:
                log.error("worker did not drain in time, killing it", extra={"worker": worker.status.worker})
                worker.process.kill()

    def _reap(self, now: float) -> None:
        for name, worker in list(self._workers.items()):
            code = worker.process.returncode
            if code is None:
                continue
            del self._workers[name]
            if worker.draining_since is not None or code == BEGIN_ANEW:
                continue
            self.restarts += 1
            self._crashes = 0 if worker.status.jobs_done else self._crashes + 1
            delay = RESTART_DELAY_S[min(self._crashes, len(RESTART_DELAY_S) - 1)]
            self._start_after = now + delay
            log.error("worker died", extra={"worker": name, "exit_code": code, "restart_in_s": delay})

    def _drain(self, worker: WorkerProcess, now: float) -> None:
        worker.draining_since = now
        worker.status = worker.status.model_copy(update={"state": "draining"})
        if worker.process.returncode is None:
            worker.process.terminate()

    def let_jobs_wait(self, delay_s: float, lease_s: float) -> None:
        """For company in a batch, so long as the lease lasts."""
        self.batch_delay = BatchDelay(delay_s, asyncio.get_running_loop().time() + lease_s)

    def _tell(self, groups: Mapping[str, DeviceGroup], now: float) -> None:
        delay_s = self.batch_delay.seconds if now < self.batch_delay.until else 0.0
        for worker in self._workers.values():
            its = groups.get(worker.status.device)
            used = [d.device for d in its.devices] if its else []
            told = {
                "share": min((self.shares.get(device, 1.0) for device in used), default=1.0),
                "speed": min((self.speeds.get(device, 1.0) for device in used), default=1.0),
                "batch_delay_s": delay_s,
            }
            if told != worker.told and worker.process.stdin is not None:
                worker.told = told
                worker.process.stdin.write(json.dumps(told).encode() + b"\n")

    async def _start(self, devices: DeviceGroup) -> None:
        name = f"{self.settings.pool}-{uuid.uuid4().hex[:6]}"
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "services.inference",
            "worker",
            env=os.environ | {"AUTOPILOT_WORKER": name} | devices.environment(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            preexec_fn=_die_with_parent,
        )
        status = WorkerStatus(worker=name, device=devices.name, pid=process.pid, state="starting", started_at=utc_now())
        worker = WorkerProcess(process, status)
        worker.reader = asyncio.create_task(self._read(worker))
        self._workers[name] = worker
        log.info("worker started", extra={"worker": name, "device": devices.name, "pid": process.pid})

    async def _read(self, worker: WorkerProcess) -> None:
        assert worker.process.stdout is not None  # noqa: S101  piped above
        async for line in worker.process.stdout:
            try:
                status = WorkerStatus.model_validate_json(line)
            except ValidationError:
                continue
            state = "draining" if worker.draining_since is not None else status.state
            worker.status = status.model_copy(update={"state": state})

    def status(self) -> PoolStatus:
        """The pool now."""
        workers: Sequence[WorkerStatus] = [w.status for w in self._workers.values()]
        return PoolStatus(
            pool=self.settings.pool,
            node=self.settings.node,
            at=utc_now(),
            desired=self.desired,
            kinds=self.settings.pool_kinds,
            models=self.settings.offered,
            workers=list(workers),
            cordoned=sorted(self.cordoned),
            restarts=self.restarts,
        )

    async def stop(self) -> None:
        """Drain every worker and wait for them, killing those that take too long."""
        now = asyncio.get_running_loop().time()
        for worker in self._workers.values():
            self._drain(worker, now)
        waits: list[Any] = [worker.process.wait() for worker in self._workers.values()]
        try:
            async with asyncio.timeout(self.settings.stop_timeout_s):
                await asyncio.gather(*waits)
        except TimeoutError:
            for worker in self._workers.values():
                if worker.process.returncode is None:
                    worker.process.kill()


def _die_with_parent() -> None:
    """Drain when the pool is killed: no worker outlives its pool (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

"""Keep the desired number of worker processes on healthy devices."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from accelerator_autopilot.contracts.messages.jobs import PoolStatus, WorkerStatus
from accelerator_autopilot.contracts.messages.telemetry import DeviceInfo
from accelerator_autopilot.inference.jobs.run_journal import JournalEntry
from accelerator_autopilot.inference.pool.application.worker_devices import DeviceGroup, group
from accelerator_autopilot.inference.pool.application.worker_process import LOADING_SILENT_S, WorkerProcess
from accelerator_autopilot.inference.pool.domain.device_trust import DeviceTrust
from accelerator_autopilot.inference.pool.domain.placement import idle_devices, plan
from accelerator_autopilot.inference.settings import PoolSettings
from accelerator_autopilot.inference.worker.application.worker_state import DEVICE_SUSPECTED, RESTART
from accelerator_autopilot.transport.clock import utc_now

log = logging.getLogger(__name__)

RESTART_DELAY_S = (0.0, 0.5, 2.0, 5.0, 10.0)
# An iteration that comes this much late means that the pool itself was suspended.
STALL_S = 1.0
DRAIN_SLACK_S = 30.0
# How long a device must have a responsive worker to count as recovered after a hang.
HEALTHY_AFTER_S = 60.0
# A device that takes no work for this long gives its worker to an unused one.
RELOCATE_AFTER_S = 10.0
FAILING = "jobs fail on it"


@dataclass(frozen=True)
class BatchDelay:
    """How long a job waits for a fuller batch, and until when (on the loop's clock)."""

    seconds: float = 0.0
    until: float = 0.0


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
    set_aside: dict[str, str] = field(default_factory=dict)
    trust: DeviceTrust = field(default_factory=DeviceTrust)
    on_killed: Callable[[str], None] = lambda _: None
    on_poison: Callable[[int], None] = lambda _: None
    _blamed: list[tuple[str, bool]] = field(default_factory=list)
    _hung: dict[str, float] = field(default_factory=dict)
    _resting_since: dict[str, float] = field(default_factory=dict)
    _turned_at: float | None = None
    _workers: dict[str, WorkerProcess] = field(default_factory=dict)
    _crashes: int = 0
    _start_after: float = 0.0

    async def run(self) -> None:
        """Reconcile until cancelled."""
        while True:
            await self.reconcile()
            await asyncio.sleep(0.1)

    async def reconcile(self) -> None:
        """Take one step towards the desired state."""
        now = asyncio.get_running_loop().time()
        self._forgive_own_stall(now)
        self._reap(now)
        self._end_silent(now)
        self._set_aside_broken()
        active = {n: w.status.device for n, w in self._workers.items() if w.draining_since is None}
        groups = {g.name: g for g in group(self.devices, self.settings.devices_per_worker)}
        closed = {name for name, g in groups.items() if self.cordoned & {d.device for d in g.devices}}
        resting = self._resting(groups, now)
        closed |= idle_devices(list(groups), closed, resting, active.values())
        states = {name: self._workers[name].status for name in active}
        busy = {name for name, status in states.items() if status.running}
        starting = {name for name, status in states.items() if status.state == "starting"}
        changes = plan(self.desired, sorted(groups, key=resting.__contains__), closed, active, busy, starting)
        for name in changes.drain:
            self._workers[name].drain(now)
        if now >= self._start_after:
            for name in changes.start:
                await self._start(groups[name])
        self._send_settings(groups, now)
        # What ran when it began to drain ends within the run time limit.
        longest_s = min(self.settings.drain_timeout_s, self.settings.run_timeout_s + DRAIN_SLACK_S)
        for worker in self._workers.values():
            if worker.draining_since is not None and now - worker.draining_since > longest_s and not worker.killed:
                log.error("worker did not drain in time; killing it", extra={"worker": worker.status.worker})
                worker.kill("drain")

    def _resting(self, groups: Mapping[str, DeviceGroup], now: float) -> set[str]:
        """Return groups that have been too hot or faulty to take work for a while; brief heat moves no worker."""
        ill = {d.device for g in groups.values() for d in g.devices if self.shares.get(d.device, 1.0) <= 0}
        self._resting_since = {device: self._resting_since.get(device, now) for device in ill}
        long = {device for device, since in self._resting_since.items() if now - since >= RELOCATE_AFTER_S}
        return {name for name, g in groups.items() if long & {d.device for d in g.devices}}

    def _reap(self, now: float) -> None:
        for name, worker in list(self._workers.items()):
            code = worker.process.returncode
            if code is None:
                continue
            del self._workers[name]
            entry, device = worker.entry, worker.status.device
            worker.close()
            if code == DEVICE_SUSPECTED:
                self.trust.tripped(device, entry.failing_kinds)
                log.warning("jobs fail one after another", extra={"device": device, "kinds": entry.failing_kinds})
            elif code not in (0, RESTART) and worker.killed != "drain":
                self._blame(worker, entry, code)
            if worker.draining_since is not None or code == RESTART:
                continue
            self.restarts += 1
            self._crashes = 0 if worker.status.jobs_done else self._crashes + 1
            delay = RESTART_DELAY_S[min(self._crashes, len(RESTART_DELAY_S) - 1)]
            self._start_after = now + delay
            log.error("worker died", extra={"worker": name, "exit_code": code, "restart_in_s": delay})

    def _blame(self, worker: WorkerProcess, entry: JournalEntry, code: int) -> None:
        """Blame running jobs for a worker's death: one that ran alone killed it, one of several may have."""
        solo = len(entry.jobs) == 1
        self._blamed += [(job.id, solo or job.alone) for job in entry.jobs]
        if entry.jobs:
            fields = {"worker": worker.status.worker, "exit_code": code, "killed": worker.killed}
            log.warning("worker died of its jobs", extra=fields | {"jobs": [job.id for job in entry.jobs][:64]})

    def take_blamed(self) -> list[tuple[str, bool]]:
        """Return jobs that ran when their worker died, and whether it counts against them; each is returned once."""
        taken, self._blamed = self._blamed, []
        return taken

    def requeue_blame(self, blamed: list[tuple[str, bool]]) -> None:
        """Queue blame that could not be recorded."""
        self._blamed += blamed

    def _forgive_own_stall(self, now: float) -> None:
        """Reset the silence timers after the pool itself was suspended and could not read heartbeats."""
        stood_s = now - self._turned_at if self._turned_at is not None else 0.0
        self._turned_at = now
        if stood_s > STALL_S:
            for worker in self._workers.values():
                worker.heard_at = min(now, worker.heard_at + stood_s)

    def _end_silent(self, now: float) -> None:
        for name, worker in self._workers.items():
            silent_s = worker.silent_s(now)
            if silent_s <= self.settings.worker_timeout_s or worker.killed:
                continue
            if (worker.loading or not worker.has_spoken) and silent_s <= LOADING_SILENT_S:
                continue
            log.error("worker is unresponsive; killing it", extra={"worker": name, "silent_s": round(silent_s, 1)})
            worker.kill("silent")
            self.on_killed("silent")
            self._hung[worker.status.device] = now
        ready = {w.status.device for w in self._workers.values() if w.status.state == "ready" and not w.killed}
        # A draining worker only finishes its jobs: it will not be ready again, and must not keep its device unwell.
        there = {w.status.device for w in self._workers.values() if w.draining_since is None or w.killed}
        for device, since in list(self._hung.items()):
            if device in there and device not in ready:
                self._hung[device] = now
            elif now - since > HEALTHY_AFTER_S:
                del self._hung[device]

    @property
    def stuck(self) -> list[str]:
        """Return devices whose worker was killed for being unresponsive and has not recovered for long enough."""
        return sorted(self._hung)

    @property
    def waiting_for(self) -> list[str]:
        """Stuck devices that lack a worker they are to have; not those that went away or that others stand in for."""
        ready = [w.status.device for w in self._workers.values() if w.status.state == "ready" and not w.killed]
        if len(ready) >= self.desired:
            return []
        usable = {d.device for d in self.devices} - self.cordoned
        return [name for name in self.stuck if name not in ready and usable.issuperset(name.split("+"))]

    @property
    def all_rest(self) -> bool:
        """Whether every device in use has been too hot or too ill to take jobs for a while."""
        usable = {d.device for d in self.devices} - self.cordoned
        now = asyncio.get_running_loop().time()
        long = {device for device, since in self._resting_since.items() if now - since >= RELOCATE_AFTER_S}
        return bool(self.desired and usable and usable <= long)

    def _set_aside_broken(self) -> None:
        for name in self.trust.broken:
            devices = set(name.split("+"))
            usable = {d.device for d in self.devices} - self.cordoned
            if not usable - devices:
                continue
            log.error("device excluded: jobs fail on it and succeed elsewhere", extra={"device": name})
            self.cordoned |= devices
            self.set_aside |= dict.fromkeys(devices, FAILING)
            self.trust.forget(name)

    def restore(self, device: str) -> None:
        """Use a device again, with its history cleared."""
        self.cordoned.discard(device)
        self.set_aside.pop(device, None)
        for name in self.trust.suspected:
            if device in name.split("+"):
                self.trust.forget(name)

    def _heard(self, worker: WorkerProcess, status: WorkerStatus) -> None:
        if self._workers.get(worker.status.worker) is not worker:
            # It has exited and was judged by its exit code: its last status is older.
            return
        if status.poison > worker.status.poison:
            self.on_poison(status.poison - worker.status.poison)
        kinds = _grown(worker.status.done_by_kind, status.done_by_kind)
        if kinds:
            failed_on = _grown(worker.status.after_failing_on, status.after_failing_on)
            node = f"{self.settings.node}/"
            devices = [place.removeprefix(node) for place in failed_on if place.startswith(node)]
            self.trust.succeeded(status.device, kinds, after_failing_on=devices)

    def set_batch_delay(self, delay_s: float, lease_s: float) -> None:
        """Set the batch delay for as long as the lease lasts."""
        self.batch_delay = BatchDelay(delay_s, asyncio.get_running_loop().time() + lease_s)

    def _send_settings(self, groups: Mapping[str, DeviceGroup], now: float) -> None:
        delay_s = self.batch_delay.seconds if now < self.batch_delay.until else 0.0
        for worker in self._workers.values():
            its = groups.get(worker.status.device)
            used = [d.device for d in its.devices] if its else []
            settings = {
                "share": min((self.shares.get(device, 1.0) for device in used), default=1.0),
                "speed": min((self.speeds.get(device, 1.0) for device in used), default=1.0),
                "batch_delay_s": delay_s,
            }
            worker.send_settings(settings)

    async def _start(self, devices: DeviceGroup) -> None:
        name = f"{self.settings.pool}-{uuid.uuid4().hex[:6]}"
        environment = devices.environment() | {
            "AUTOPILOT_SUSPECT_AFTER_FAILURES": str(self.trust.suspect_after(devices.name))
        }
        worker = await WorkerProcess.start(name, devices.name, environment, self._heard)
        self._workers[name] = worker
        log.info("worker started", extra={"worker": name, "device": devices.name, "pid": worker.process.pid})

    def status(self) -> PoolStatus:
        """Return the pool's current status."""
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
            stuck=self.stuck,
            suspected=sorted({device for name in self.trust.suspected for device in name.split("+")}),
            set_aside=self.set_aside,
        )

    async def stop(self) -> None:
        """Drain every worker and wait for them, killing those that exceed the time limit."""
        now = asyncio.get_running_loop().time()
        for worker in self._workers.values():
            worker.drain(now)
        waits: list[Any] = [worker.process.wait() for worker in self._workers.values()]
        try:
            async with asyncio.timeout(self.settings.stop_timeout_s):
                await asyncio.gather(*waits)
        except TimeoutError:
            for worker in self._workers.values():
                if worker.process.returncode is None:
                    worker.process.kill()


def _grown(before: Mapping[str, int], now: Mapping[str, int]) -> list[str]:
    return [name for name, count in now.items() if count > before.get(name, 0)]

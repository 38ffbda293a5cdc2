"""One soak from start to report."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import asyncpg
from pydantic import SecretStr

from accelerator_autopilot.client import AutopilotClient
from accelerator_autopilot.contracts.messages.commands import FleetPolicy, PoolPolicy
from accelerator_autopilot.deploy.local.instance import take_port
from accelerator_autopilot.deploy.local.product import SERVICES, EmbeddedProduct, Options
from accelerator_autopilot.transport.settings import NatsSettings
from tests.chaos.soak.disks import Disk
from tests.chaos.soak.doors import Doors, make_keys
from tests.chaos.soak.faults import Injector
from tests.chaos.soak.load import TRANSIENT, Load
from tests.chaos.soak.observing import Record
from tests.chaos.soak.operators import Operators
from tests.chaos.soak.plan import DISKS, Fault
from tests.chaos.soak.processes import Processes
from tests.chaos.soak.proxy import LinkProxy, socket_target, tcp_target
from tests.chaos.soak.receivers import Receivers
from tests.chaos.soak.recovery import Recovery
from tests.chaos.soak.report import SHOWN, Report
from tests.chaos.soak.resources import Resources
from tests.support.product import query

NODE = "soaknode"
LATE_S = 150.0
CHECK_INTERVAL_S = 30.0
MEMORY_MARK_S = 300.0
HOPELESS = 3


@dataclass(frozen=True)
class Scale:
    """How large and how long. All of the plan is gone through, also where that takes longer than `seconds`."""

    seconds: float
    rate: float
    agents: int
    devices_each: int
    pause_s: float = 2.0
    warm_up_s: float = 5.0
    recover_within_s: float = 60.0
    settle_s: float = 180.0
    small_disks: bool = True
    seed: int = 1
    patience: float = 1.0
    """By how much every limit of time is longer, where the machine is busy with other work."""


class Soak:
    """A product under load, its record, and the faults put into it."""

    def __init__(self, folder: Path, scale: Scale) -> None:
        self._folder, self._scale = folder, scale
        self._dice = random.Random(scale.seed)
        self._record = Record()
        self._links: dict[str, LinkProxy] = {}
        self._disks: dict[str, Disk] = {}
        self._late: list[str] = []

    async def run(self, plan: Sequence[Fault]) -> Report:
        """Start everything, go through the plan, let it settle, and look at all invariants."""
        async with AsyncExitStack() as stack:
            self._mount(stack)
            keys = make_keys(self._folder)
            receivers = Receivers(self._record.alerts)
            await receivers.start()
            stack.push_async_callback(receivers.stop)
            product, client = await stack.enter_async_context(self._running(receivers))
            processes = Processes(product, random.Random(self._scale.seed))
            await self._add_agents(product, processes)
            devices = await self._learn_devices(client)
            await receivers.subscribe(client)
            bounds = PoolPolicy(floor=2, ceiling=4, manual_hold_s=0)
            await client.steering.set_policy(FleetPolicy(pools={"default": bounds}))
            assert product.runtime is not None
            doors = Doors(product.runtime.gateway_url, random.Random(self._scale.seed), keys)
            operators = Operators(client, devices, random.Random(self._scale.seed))
            resources = Resources(processes)
            load = Load(client, self._record.jobs, self._scale.rate)
            injector = Injector(processes, self._links, self._disks, client.js)
            recovery = Recovery(
                product, client, self._record, injector, self._scale.recover_within_s * self._scale.patience
            )
            async with asyncio.TaskGroup() as group:
                background = [
                    group.create_task(work)
                    for work in (self._record.follow(client.js), receivers.run(), doors.run(), resources.run(),
                                 self._look(product))
                ]  # fmt: skip
                at_work = [group.create_task(work) for work in (operators.cap(), operators.break_devices())]
                loading = group.create_task(load.run())
                began = time.monotonic()
                try:
                    await self._inject(recovery, plan, began)
                finally:
                    # Also where a part of the soak failed: a submission that is under way swallows its cancellation.
                    load.stopping.set()
                await _end(at_work)
                await loading
                took = time.monotonic() - began
                frames_missing = await self._settle(product)
                whereabouts = await self._whereabouts(client)
                await _end(background)
            rate = load.submitted / took
            figures = {
                "seconds": round(took, 1), "jobs": load.submitted, "jobs_per_s": round(rate, 1),
                "load_held_s": round(load.held_s, 1), "machine_load": resources.machine_load(),
                "dead": len(self._record.jobs.dead), "devices": len(self._record.default_w),
                "frames": len(self._record.frames.devices), "frames_capped_seen": self._record.caps.observed,
                "critical_alerts": len(self._record.alerts.alerts), "events": len(self._record.alerts.events),
                "webhook_delay_max_s": round(max(self._record.alerts.delays_s, default=0.0), 1),
                "operators": dict(operators.done), "doors": dict(doors.tried),
                "disks": sorted(self._disks), "memory": resources.compare(MEMORY_MARK_S),
                "restarts": {n: p.restarts for n, p in product.processes.items()}
                | {"postgres": product.postgres.restarts},
                "seed": self._scale.seed, "patience": self._scale.patience,
            }  # fmt: skip
        violations = self._violations() | {
            "a frame has its rows": frames_missing,
            "what the product says of lost jobs": whereabouts,
            "no key unlocks more than its role": doors.violations,
            "webhooks are signed": receivers.unsigned,
            "nothing grows": list(resources.growth(MEMORY_MARK_S)),
            "a fault is healed in time": [
                f"{h.fault.kind} of {h.fault.target} at {h.at}: {h.problems}" for h in recovery.healed if h.problems
            ],
            "the load was kept up": []
            if rate >= 0.95 * self._scale.rate
            else [f"{rate:.0f} jobs/s of {self._scale.rate:g}"],
        }
        return Report(figures, recovery.healed, violations)

    def _violations(self) -> dict[str, list[str]]:
        record = self._record
        return {
            "a confirmed job ends": record.jobs.lost(),
            "a job ends once, as it has to": list(record.jobs.contradictions()),
            "no frame is skipped": list(record.frames.gaps()),
            "no cap outlives its lease": record.caps.violations
            + [f"{node}/{device} is still capped" for node, device in record.caps.over()],
            "no subscription is silent": list(record.alerts.silent()),
            "nothing came too late": self._late,
            "messages are readable": record.unreadable,
        }

    def _mount(self, stack: AsyncExitStack) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        if not self._scale.small_disks:
            return
        for name in sorted(DISKS):
            disk = Disk(self._folder if name == "data" else self._folder / name)
            if disk.mount():
                self._disks[name] = disk
                stack.callback(disk.unmount)

    @asynccontextmanager
    async def _running(self, receivers: Receivers) -> AsyncIterator[tuple[EmbeddedProduct, AutopilotClient]]:
        nats_port = take_port(0, "nats")
        environments = {}
        for name in [*SERVICES, *self._nodes()]:
            link = await self._link(f"{name}-nats", LinkProxy(tcp_target(nats_port)))
            environments[name] = {"AUTOPILOT_NATS_URL": f"nats://127.0.0.1:{link.port}"}
        options = Options(
            data_dir=self._folder, simulate=4, nats_port=nats_port, gateway_port=0, node=NODE,
            environment={
                "AUTOPILOT_WEBHOOK_PRIVATE_TARGETS": "true", "AUTOPILOT_INITIAL_WORKERS": "2",
                "AUTOPILOT_UNRUNNABLE_AFTER_S": "10",
            },
            environments=environments,
        )  # fmt: skip
        product = EmbeddedProduct(options)
        for name in ("recorder", "scheduler"):
            link = await self._link(f"{name}-postgres", LinkProxy(socket_target(lambda: product.postgres.socket_path)))
            url = f"postgresql://postgres@127.0.0.1:{link.port}/postgres?sslmode=disable"
            environments[name]["AUTOPILOT_DATABASE_URL"] = url
        self._links["notifier-receiver"] = receivers.link
        supervising: asyncio.Task[None] | None = None
        try:
            runtime = await product.start()
            supervising = asyncio.create_task(product.run())
            settings = NatsSettings(
                nats_url=runtime.nats_url, nats_user=runtime.nats_user, nats_password=SecretStr(runtime.nats_password)
            )
            async with AutopilotClient(settings, name="soak", actor="soak") as client:
                yield product, client
        finally:
            if supervising is not None:
                supervising.cancel()
                with suppress(asyncio.CancelledError):
                    await supervising
            await product.stop()
            for link in self._links.values():
                await link.stop()

    async def _link(self, name: str, link: LinkProxy) -> LinkProxy:
        await link.start()
        self._links[name] = link
        return link

    def _nodes(self) -> list[str]:
        return [f"agent-rack{number}" for number in range(self._scale.agents)]

    async def _add_agents(self, product: EmbeddedProduct, processes: Processes) -> None:
        for name in self._nodes():
            url = f"nats://127.0.0.1:{self._links[f'{name}-nats'].port}"
            await processes.add_agent(name.removeprefix("agent-"), self._scale.devices_each, url)
        await product.wait_ready()

    async def _learn_devices(self, client: AutopilotClient) -> list[tuple[str, str]]:
        """Every device's default, and those that no pool uses."""
        wanted = self._scale.agents + 1
        async with asyncio.timeout(60):
            while len(inventories := await client.fleet.inventories()) < wanted:
                await asyncio.sleep(0.2)
        for inventory in inventories:
            for info in inventory.devices:
                if info.power_default_w is not None:
                    self._record.default_w[inventory.node, info.device] = info.power_default_w
        return [device for device in self._record.default_w if device[0] != NODE]

    async def _inject(self, recovery: Recovery, plan: Sequence[Fault], began: float) -> None:
        await asyncio.sleep(self._scale.warm_up_s)
        possible = [fault for fault in plan if recovery.injector.possible(fault)]
        first = [fault for fault in possible if not (fault.restarts or fault.kind == "full")]
        position = 0
        while position < len(possible) or time.monotonic() - began < self._scale.seconds:
            fault = possible[position] if position < len(possible) else self._dice.choice(possible)
            early = len(first) <= position < len(possible) and self._scale.seconds > 2 * MEMORY_MARK_S
            if early and (left := began + MEMORY_MARK_S + 60 - time.monotonic()) > 0:
                await asyncio.sleep(left)
            healed = await recovery.go_through(fault)
            told = f"well again after {healed.recovered_s} s, last: {healed.last or 'nothing'}"
            told = f"NOT WELL: {healed.problems}" if healed.problems else told
            print(f"{healed.at} {fault.kind} {fault.target} for {fault.hold_s:g} s: {told}", flush=True)
            position += 1
            if len(recovery.healed) >= HOPELESS and all(h.problems for h in recovery.healed[-HOPELESS:]):
                print(f"not well after {HOPELESS} faults in a row: no more are put in", flush=True)
                return
            await asyncio.sleep(self._scale.pause_s)

    async def _look(self, product: EmbeddedProduct) -> None:
        """What is overdue while the load goes on is a violation, not only what is missing at the end."""
        told: set[str] = set()
        while True:
            await asyncio.sleep(CHECK_INTERVAL_S)
            late_s = LATE_S * self._scale.patience
            before = time.monotonic() - late_s
            with suppress(OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                rows = await _rows(product)
                late = [*self._record.frames.missing(rows, before), *self._record.jobs.lost(before),
                        *self._record.alerts.silent(before)]  # fmt: skip
                self._late += [f"after {late_s:g} s: {text}" for text in late if text not in told]
                told.update(late)

    async def _settle(self, product: EmbeddedProduct) -> list[str]:
        """Wait until nothing is open any more, for so long; returns the frames without their rows."""
        until = time.monotonic() + self._scale.settle_s * self._scale.patience
        missing = ["the database did not answer"]
        while time.monotonic() < until:
            with suppress(*TRANSIENT, asyncpg.PostgresError, asyncpg.InterfaceError):
                missing = list(self._record.frames.missing(await _rows(product), time.monotonic() - 5.0))
                record = self._record
                open_ends = record.jobs.unfinished(), list(record.alerts.silent()), record.caps.over(), missing
                if not any(open_ends):
                    return []
            await asyncio.sleep(1.0)
        return missing

    async def _whereabouts(self, client: AutopilotClient) -> list[str]:
        """Where the product sees the first of the jobs that have not ended."""
        told = []
        for job in self._record.jobs.unfinished()[:SHOWN]:
            try:
                view = await client.jobs.view(job)
                told.append(f"{job}: {view.state}, priority {view.priority or 'unknown'}")
            except (*TRANSIENT, ValueError) as error:
                told.append(f"{job}: {error}")
        return told


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel until they end: `asyncio.wait_for` of Python 3.11 may swallow a cancellation."""
    while left := [task for task in tasks if not task.done()]:
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=1.0)


async def _rows(product: EmbeddedProduct) -> dict[tuple[str, int], int]:
    sql = (
        "SELECT node, (extract(epoch FROM ts) * 1000000)::bigint AS us, count(*) AS n "
        "FROM samples JOIN devices USING (device_id) GROUP BY 1, 2"
    )
    async with asyncio.timeout(60):
        return {(row["node"], row["us"]): row["n"] for row in await query(product.postgres.url, sql)}

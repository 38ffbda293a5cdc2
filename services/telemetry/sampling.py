"""The agent's loop: sample every source on time, publish the frame, tell what changed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from services.telemetry.adapters.guarded import GuardedSource
from services.telemetry.adapters.kernel_log import normal_pci
from services.telemetry.domain.assembly import FrameAssembler, TransitionWatch
from services.telemetry.domain.frame_buffer import FrameBuffer, Outgoing
from services.telemetry.domain.latest import LatestSamples
from services.telemetry.domain.occurrences import OccurrenceFilter
from services.telemetry.errors import SourceHungError
from services.telemetry.ports import Sample, SourceEvent
from shared import subjects
from shared.clock import utc_now
from shared.errors import AutopilotError
from shared.health import HealthState
from shared.ids import derived_id
from shared.messages.telemetry import DeviceEvent, DeviceInfo, NodeInventory

log = logging.getLogger(__name__)

Publish = Callable[[str, bytes, str], Awaitable[None]]
PutInventory = Callable[[NodeInventory], Awaitable[None]]
DISCOVER_PERIOD_S = 10.0


def _now_us() -> int:
    return int(utc_now().timestamp() * 1e6)


@dataclass
class Sampler:
    """Samples the sources of one node. `publish(subject, body, message_id)` returns when it is stored.

    `extra_events` gives what is known besides the sources.
    """

    node: str
    period_s: float
    sources: Sequence[GuardedSource]
    publish: Publish
    put_inventory: PutInventory
    health: HealthState
    buffer: FrameBuffer
    latest: LatestSamples = field(default_factory=lambda: LatestSamples(0))
    devices: dict[str, tuple[DeviceInfo, GuardedSource]] = field(default_factory=dict)
    epoch_us: int = field(default_factory=_now_us)
    extra_events: Callable[[], list[SourceEvent]] = list
    privileged: bool = True
    inventory_period_s: float = 30.0
    _inventory: dict[str, Any] = field(default_factory=dict)
    _inventory_at_s: float = 0.0
    _said_unprivileged: bool = False
    _hung: set[str] = field(default_factory=set)
    _occurrences: OccurrenceFilter = field(default_factory=OccurrenceFilter)
    _links: dict[tuple[str, int], bool] = field(default_factory=dict)
    _transitions: TransitionWatch = field(default_factory=TransitionWatch)
    _more: asyncio.Event = field(default_factory=asyncio.Event)

    def find(self, device: str) -> tuple[DeviceInfo, GuardedSource] | None:
        """A device of this node and its source."""
        return self.devices.get(device)

    async def discover(self) -> None:
        """Look for devices in every source, and publish the inventory."""
        states = {}
        for source in self.sources:
            try:
                found = await source.call(source.source.discover)
            except (SourceHungError, AutopilotError) as error:
                states[source.name] = str(error)
                continue
            states[source.name] = "ok"
            self.devices = {k: v for k, v in self.devices.items() if v[1] is not source}
            found = [self._with_privilege(info) for info in found]
            self.devices |= {info.device: (info, source) for info in found}
            for number, event in enumerate(self._link_changes(found)):
                self._queue_event(event, _now_us(), number)
        inventory = NodeInventory(
            node=self.node,
            at=utc_now(),
            period_s=self.period_s,
            sources=states,
            devices=[info for info, _ in self.devices.values()],
            agent_epoch_us=self.epoch_us,
        )
        content, age_s = inventory.model_dump(exclude={"at"}), _now_us() / 1e6 - self._inventory_at_s
        if content != self._inventory or age_s >= self.inventory_period_s:
            self._inventory, self._inventory_at_s = content, _now_us() / 1e6
            await self.put_inventory(inventory)

    def _with_privilege(self, info: DeviceInfo) -> DeviceInfo:
        if not info.can_cap:
            return info
        allowed = info.simulated or self.privileged
        if not allowed and not self._said_unprivileged:
            self._said_unprivileged = True
            log.warning("no privilege to cap power: run the agent as root or with CAP_SYS_ADMIN")
        return info.model_copy(update={"can_set_power": allowed})

    def _link_changes(self, found: list[DeviceInfo]) -> list[SourceEvent]:
        events = []
        for info in found:
            for link in info.links:
                before = self._links.get((info.device, link.link))
                self._links[info.device, link.link] = link.active
                if before is not None and before != link.active:
                    kind = "nvlink_up" if link.active else "nvlink_down"
                    events.append(SourceEvent(info.device, kind, link.link, f"link {link.link} to {link.remote}"))
        return events

    def device_at(self, pci: str) -> str | None:
        """The device at a PCI address."""
        for info, _ in self.devices.values():
            if info.pci_bus_id and info.parent is None and normal_pci(info.pci_bus_id) == pci:
                return info.device
        return None

    async def run(self) -> None:
        """Sample on time until cancelled; a late tick is skipped, never squeezed in."""
        loop = asyncio.get_running_loop()
        assembler = FrameAssembler(self.node, self.period_s, self.epoch_us)
        discover_s = min(DISCOVER_PERIOD_S, self.inventory_period_s)
        next_tick, next_discovery = loop.time(), loop.time() + discover_s
        while True:
            await self._tick(assembler)
            self.health.report("sampling", ok=True, max_age_s=max(5.0, 5 * self.period_s))
            if loop.time() >= next_discovery:
                next_discovery = loop.time() + discover_s
                await self.discover()
            next_tick += self.period_s * max(1, 1 + int((loop.time() - next_tick) / self.period_s))
            await asyncio.sleep(max(0.0, next_tick - loop.time()))

    async def _tick(self, assembler: FrameAssembler) -> None:
        start_us = _now_us()
        results = await asyncio.gather(*(self._sample(source) for source in self.sources))
        samples: dict[str, Sample] = {}
        events: list[SourceEvent] = []
        for source_samples, source_events in results:
            samples |= source_samples
            events += source_events
        simulated = frozenset(d for d, (info, _) in self.devices.items() if info.simulated)
        now_s = asyncio.get_running_loop().time()
        for device, sample in samples.items():
            self.latest.update(self.node, device, sample, now_s, self._info(device))
        frame = assembler.assemble(start_us, samples, simulated)
        if frame is not None:
            message_id = f"{self.node}:{assembler.epoch_us}:{assembler.sequence}"
            self._queue(Outgoing(subjects.frames(self.node), frame, message_id))
        told = [e for e in events + self.extra_events() if self._occurrences.is_new(e, now_s)]
        for number, event in enumerate(told + self._transitions.observe(samples)):
            self._queue_event(event, start_us, number)
        self._more.set()

    async def _sample(self, source: GuardedSource) -> tuple[dict[str, Sample], list[SourceEvent]]:
        try:
            samples = await source.call(source.source.sample)
            events = await source.call(source.source.poll_events)
        except SourceHungError as error:
            return {}, self._say_hung(source, str(error))
        except Exception as error:
            log.exception("source failed", extra={"source": source.name})
            self.health.report(f"source {source.name}", ok=False, reason=str(error))
            return {}, []
        self.health.report(f"source {source.name}", ok=True)
        if source.name in self._hung:
            self._hung.discard(source.name)
            events += [SourceEvent(d, "probe_recovered") for d, (_, s) in self.devices.items() if s is source]
        return samples, events

    def _say_hung(self, source: GuardedSource, reason: str) -> list[SourceEvent]:
        self.health.report(f"source {source.name}", ok=False, reason=reason)
        if source.name in self._hung:
            return []
        self._hung.add(source.name)
        log.error("source hung", extra={"source": source.name})
        return [SourceEvent(d, "probe_hung", message=reason) for d, (_, s) in self.devices.items() if s is source]

    def _queue_event(self, event: SourceEvent, at_us: int, number: int) -> None:
        info = self.devices.get(event.device)
        message = DeviceEvent(
            id=derived_id(self.node, event.device, event.kind, str(at_us), str(number)),
            node=self.node,
            device=event.device,
            at=utc_now(),
            kind=event.kind,
            code=event.code,
            message=event.message,
            source=info[1].name if info else "",
            simulated=bool(info and info[0].simulated),
        )
        log.info("device event", extra={"device": event.device, "kind": event.kind, "code": event.code})
        if event.kind == "xid":
            self.latest.note_xid(self.node, event.device, event.code)
        body = message.model_dump_json().encode()
        self._queue(Outgoing(subjects.event(self.node, event.device), body, message.id, is_event=True))

    def _queue(self, item: Outgoing) -> None:
        before = self.buffer.dropped
        self.buffer.append(item)
        if self.buffer.dropped > before:
            log.error("broker away for long, older frames are thinned", extra={"dropped": self.buffer.dropped})

    async def run_publisher(self) -> None:
        """Publish what is buffered, oldest first, each until the stream has it."""
        while True:
            await self._more.wait()
            self._more.clear()
            while (item := self.buffer.head()) is not None:
                try:
                    await self.publish(item.subject, item.body, item.message_id)
                except AutopilotError as error:
                    self.health.report("publishing", ok=False, reason=str(error))
                    await asyncio.sleep(0.5)
                    continue
                self.health.report("publishing", ok=True)
                self.buffer.remove(item)

    def _info(self, device: str) -> DeviceInfo | None:
        found = self.devices.get(device)
        return found[0] if found else None

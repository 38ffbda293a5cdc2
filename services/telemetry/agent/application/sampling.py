"""The agent's main loop: sample every source on schedule, publish frames, report changes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.errors import AutopilotError
from accelerator_autopilot.contracts.ids import derived_id
from accelerator_autopilot.contracts.messages.telemetry import DeviceEvent, DeviceInfo
from accelerator_autopilot.runtime.health import HealthState
from accelerator_autopilot.runtime.supervision import beat
from accelerator_autopilot.telemetry.agent.application.node_inventories import NodeInventories, PutInventory
from accelerator_autopilot.telemetry.agent.domain.device_resets import ResetWatch
from accelerator_autopilot.telemetry.agent.domain.energy import EnergyWatch
from accelerator_autopilot.telemetry.agent.domain.event_deduplication import OccurrenceFilter
from accelerator_autopilot.telemetry.agent.domain.frame_assembly import NO_READING, NodeFrames, TransitionWatch, clean
from accelerator_autopilot.telemetry.agent.domain.kernel_lines import normal_pci
from accelerator_autopilot.telemetry.agent.domain.plausibility import Plausible
from accelerator_autopilot.telemetry.agent.domain.publish_buffer import FrameBuffer, Outgoing
from accelerator_autopilot.telemetry.agent.domain.source_health import SourceWatch
from accelerator_autopilot.telemetry.agent.ports import GuardedSource
from accelerator_autopilot.telemetry.device_metrics.latest_samples import LatestSamples
from accelerator_autopilot.telemetry.errors import SourceBusyError, SourceHungError
from accelerator_autopilot.telemetry.samples import Sample, SourceEvent
from accelerator_autopilot.transport.clock import utc_now

log = logging.getLogger(__name__)

Publish = Callable[[str, bytes, str], Awaitable[None]]
DISCOVER_PERIOD_S = 10.0
MAX_MESSAGE = 2000
PUBLISHED_AT_ONCE = 16


def same_host(one: str, other: str) -> bool:
    """Whether two names denote one host; either may include its domain."""
    first, second = sorted((one.lower(), other.lower()), key=len)
    return first == second or second.startswith(f"{first}.")


def _now_us() -> int:
    return int(utc_now().timestamp() * 1e6)


@dataclass
class Sampler:
    """Samples the sources of one node, and of the hosts whose exporters it reads.

    `publish(subject, body, message_id)` returns when the message is stored. `extra_events` returns events from
    other origins; `on_all_published` is called when nothing waits to be published.
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
    on_all_published: Callable[[], None] = lambda: None
    privileged: bool = True
    inventory_period_s: float = 30.0
    expected_devices: int = 0
    resets: ResetWatch = field(default_factory=lambda: ResetWatch(""))
    addresses: dict[str, str] = field(default_factory=dict)
    _hosts: dict[str, str] = field(default_factory=dict)
    _reported_unprivileged: bool = False
    _source_watch: SourceWatch = field(default_factory=SourceWatch)
    _owners: dict[str, str] = field(default_factory=dict)
    _states: dict[str, str] = field(default_factory=dict)
    _occurrences: OccurrenceFilter = field(default_factory=OccurrenceFilter)
    _plausible: Plausible = field(default_factory=Plausible)
    _energy: EnergyWatch = field(default_factory=EnergyWatch)
    _links: dict[tuple[str, int], bool] = field(default_factory=dict)
    _more: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        # They outlive a restart of the loop: frame numbers must not start over within one epoch.
        self._frames = NodeFrames(self.period_s, self.epoch_us)
        self._inventories = NodeInventories(
            self.node,
            self.period_s,
            self.inventory_period_s,
            self.epoch_us,
            self.put_inventory,
            self.expected_devices,
        )
        self._transitions = TransitionWatch(self.resets.cause)

    def find(self, device: str) -> tuple[DeviceInfo, GuardedSource] | None:
        """Return a device of this node and its source."""
        return self.devices.get(device)

    async def discover(self) -> None:
        """Discover devices in every source, and publish the inventory."""
        await self.discover_devices()
        await self.publish_inventory()

    async def publish_inventory(self) -> None:
        """Publish the state of devices and sources, when it changed or is due."""
        devices = {device: (info, source.name) for device, (info, source) in self.devices.items()}
        states = self._states | self._source_watch.reasons
        await self._inventories.publish_all(devices, self._hosts, states, self.resets.boot_id)

    def node_of(self, device: str) -> str:
        """Return the host of a device according to its exporter; else this node."""
        return self._hosts.get(device, self.node)

    async def discover_devices(self) -> None:
        """Discover devices in every source; one that fails keeps its known devices."""
        for source in self.sources:
            beat()
            try:
                found = await source.call(source.source.discover)
            except AutopilotError as error:
                self._states[source.name] = str(error)
                continue
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
                if self._states.get(source.name) != reason:
                    log.exception("device discovery failed", extra={"source": source.name})
                self._states[source.name] = reason
                continue
            if source.absent:
                self._forget_source(source.name)
                continue
            self._states[source.name] = "ok"
            self._take_devices(source, [self._with_privilege(info) for info in found])

    def _forget_source(self, name: str) -> None:
        """The machine has no such source, so any failure reported for it is over."""
        self._states.pop(name, None)
        self._source_watch.forget(name)
        self.health.forget(f"source {name}")

    def _take_devices(self, source: GuardedSource, found: list[DeviceInfo]) -> None:
        self.devices = {k: v for k, v in self.devices.items() if v[1] is not source}
        self.devices |= {info.device: (info, source) for info in found}
        self._take_hosts(source)
        self._owners |= {info.device: source.name for info in found}
        # Addresses belong to this machine, whatever name its exporter uses for the host.
        here = getattr(source.source, "on_this_machine", False)
        own = [info for info in found if here or self.node_of(info.device) == self.node]
        whole = [info for info in own if info.pci_bus_id and info.parent is None]
        self.addresses |= {normal_pci(info.pci_bus_id or ""): info.device for info in whole}
        changes = self._link_changes(found)
        if source.is_driver:
            changes += self.resets.found({info.device: info.driver_epoch for info in found})
        for number, event in enumerate(changes):
            self._queue_event(event, _now_us(), number)

    def _take_hosts(self, source: GuardedSource) -> None:
        """Remember the hosts of devices that left, so that their end is reported for the same host."""
        hosts: dict[str, str] = getattr(source.source, "hosts", {})
        self._hosts |= {device: self.node if same_host(host, self.node) else host for device, host in hosts.items()}

    def _with_privilege(self, info: DeviceInfo) -> DeviceInfo:
        if not info.can_cap:
            return info
        allowed = info.simulated or self.privileged
        if not allowed and not self._reported_unprivileged:
            self._reported_unprivileged = True
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
        """Return the device at a PCI address, also one that is no longer found."""
        return self.addresses.get(pci)

    async def keep_discovering(self) -> None:
        """Discover devices periodically until cancelled; a driver may load, or respond again, at any time."""
        period_s = min(DISCOVER_PERIOD_S, self.inventory_period_s)
        while True:
            beat()
            await self.discover_devices()
            await asyncio.sleep(period_s)

    async def run(self) -> None:
        """Sample on schedule until cancelled; a late tick is skipped, not caught up."""
        loop = asyncio.get_running_loop()
        tell_s = min(DISCOVER_PERIOD_S, self.inventory_period_s)
        next_tick, next_inventory = loop.time(), loop.time() + tell_s
        while True:
            beat()
            await self._tick()
            self.health.report("sampling", ok=True, max_age_s=max(5.0, 5 * self.period_s))
            if loop.time() >= next_inventory:
                next_inventory = loop.time() + tell_s
                await self.publish_inventory()
            next_tick += self.period_s * max(1, 1 + int((loop.time() - next_tick) / self.period_s))
            await asyncio.sleep(max(0.0, next_tick - loop.time()))

    async def _tick(self) -> None:
        start_us = _now_us()
        results = await asyncio.gather(*(self._sample(source) for source in self.sources))
        samples: dict[str, Sample] = {}
        unread: set[str] = set()
        unknown: set[str] = set()
        events: list[SourceEvent] = []
        for source, (source_samples, source_events) in zip(self.sources, results, strict=True):
            if source_samples is None:
                unread |= self._devices_of(source)
                # Includes devices that the last discovery missed: they may be back.
                unknown |= {device for device, owner in self._owners.items() if owner == source.name}
            else:
                samples |= source_samples
                self._take_hosts(source)
                self._owners |= dict.fromkeys(source_samples, source.name)
            events += source_events
        simulated = frozenset(d for d, (info, _) in self.devices.items() if info.simulated)
        now_s = asyncio.get_running_loop().time()
        samples = {device: self._completed(device, sample, now_s) for device, sample in samples.items()}
        for device, sample in samples.items():
            self.latest.update(self.node_of(device), device, sample, now_s, self._info(device))
        observed = dict.fromkeys(unread, NO_READING) | samples
        for node, frame, message_id in self._frames.assemble(start_us, observed, simulated, self.node_of):
            self._queue(Outgoing(subjects.frames(node), frame, message_id))
        self._publish_frames(events, samples, unknown, start_us, now_s)
        self._more.set()

    def _publish_frames(
        self, events: list[SourceEvent], samples: dict[str, Sample], unknown: set[str], start_us: int, now_s: float
    ) -> None:
        new = [e for e in events + self.extra_events() if self._occurrences.is_new(e, now_s)]
        self.resets.process(new)
        for number, event in enumerate(new + self._transitions.observe(samples, unknown)):
            self._queue_event(event, start_us, number)

    def _completed(self, device: str, sample: Sample, now_s: float) -> Sample:
        """Remove implausible values, and complete the energy where its counter is stuck."""
        return self._energy.complete(device, self._plausible.of(device, clean(sample)), now_s)

    def _devices_of(self, source: GuardedSource) -> set[str]:
        return {device for device, (_, s) in self.devices.items() if s is source}

    async def _sample(self, source: GuardedSource) -> tuple[dict[str, Sample] | None, list[SourceEvent]]:
        """Return samples, or None where nothing is known of the source's devices; and events."""
        if source.absent:
            return {}, []
        samples: dict[str, Sample] | None = None
        try:
            samples = await source.call(source.source.sample)
            events = await source.call(source.source.poll_events)
        except SourceBusyError:
            return samples, []
        except SourceHungError as error:
            if source.is_driver:
                return samples or {}, self._report_hung(source, str(error))
            return samples, self._report_failed(source, error)
        except Exception as error:  # noqa: BLE001  told, and logged when it begins
            # Samples read before the events failed are still valid.
            return samples, self._report_failed(source, error)
        if source.is_driver:
            self.health.report(f"source {source.name}", ok=True)
        return samples, [*events, *self._source_watch.answered(source.name)]

    def _report_failed(self, source: GuardedSource, error: Exception) -> list[SourceEvent]:
        reason = str(error) or type(error).__name__
        events = self._source_watch.failed(source.name, reason)
        if self._source_watch.first_time(source.name):
            unexpected = not isinstance(error, AutopilotError)
            log.warning("source failed", extra={"source": source.name, "error": reason}, exc_info=unexpected)
        if source.is_driver:
            self.health.report(f"source {source.name}", ok=False, reason=reason)
        return events

    def _report_hung(self, source: GuardedSource, reason: str) -> list[SourceEvent]:
        self.health.report(f"source {source.name}", ok=False, reason=reason)
        events = self._source_watch.hung(source.name, self._devices_of(source), reason)
        if events:
            log.error("source hung", extra={"source": source.name})
        return events

    def _queue_event(self, event: SourceEvent, at_us: int, number: int) -> None:
        info = self.devices.get(event.device)
        node = self.node_of(event.device)
        by_source = event.kind.startswith("source_")
        driven = info is not None and info[1].is_driver
        occurrence = [event.occurrence] if event.occurrence else [str(at_us), str(number)]
        message = DeviceEvent(
            id=derived_id(node, event.device, event.kind, *occurrence),
            node=node,
            device=event.device,
            at=utc_now(),
            kind=event.kind,
            code=event.code,
            message=event.message[:MAX_MESSAGE],
            source=event.device if by_source else info[1].name if info else "",
            simulated=bool(info and info[0].simulated),
            cause=event.cause,
            boot_id=self.resets.boot_id if driven else "",
            driver_epoch=info[0].driver_epoch if info else "",
        )
        log.info("device event", extra={"device": event.device, "kind": event.kind, "code": event.code})
        if event.kind == "xid":
            self.latest.note_xid(node, event.device, event.code)
        body = message.model_dump_json().encode()
        self._queue(Outgoing(subjects.event(node, event.device), body, message.id, is_event=True))

    def _queue(self, item: Outgoing) -> None:
        before = self.buffer.dropped
        self.buffer.append(item)
        if self.buffer.dropped > before:
            log.error("broker unreachable for long; thinning older frames", extra={"dropped": self.buffer.dropped})

    async def run_publisher(self) -> None:
        """Publish what is buffered, oldest first per subject, retrying each until the stream stores it.

        Several at once: frames do not wait behind one round trip for each event of many devices.
        """
        while True:
            await self._more.wait()
            self._more.clear()
            while items := self.buffer.heads(PUBLISHED_AT_ONCE):
                beat()
                problems = await asyncio.gather(*map(self._publish, items))
                problem = next(filter(None, problems), "")
                self.health.report("publishing", ok=not problem, reason=problem)
                if problem:
                    await asyncio.sleep(0.5)
            self.on_all_published()

    async def _publish(self, item: Outgoing) -> str:
        """Publish one message and remove it; returns why that failed, if it did."""
        try:
            await self.publish(item.subject, item.body, item.message_id)
        except AutopilotError as error:
            return str(error)
        self.buffer.remove(item)
        return ""

    def _info(self, device: str) -> DeviceInfo | None:
        found = self.devices.get(device)
        return found[0] if found else None

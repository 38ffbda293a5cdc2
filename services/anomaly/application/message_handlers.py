"""Handlers of the anomaly detector's messages: frames, events, inventories and operators' commands."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fnmatch import fnmatchcase

import numpy as np

from accelerator_autopilot.anomaly.domain.alert_lifecycle import AlertLifecycle
from accelerator_autopilot.anomaly.domain.detection_engine import DetectionEngine
from accelerator_autopilot.anomaly.domain.detectors.driver_faults import is_sxid
from accelerator_autopilot.anomaly.domain.detectors.source_failed import KIND as SOURCE_FAILED
from accelerator_autopilot.anomaly.domain.device_slots import NODE
from accelerator_autopilot.anomaly.domain.expected_device_count import all_gone, missing_devices
from accelerator_autopilot.anomaly.domain.findings import EventDetector, Finding
from accelerator_autopilot.anomaly.domain.frame_batches import batches
from accelerator_autopilot.anomaly.domain.reset_evidence import reset_in, reset_reason, reset_since
from accelerator_autopilot.anomaly.domain.source_topology import SourceTopology
from accelerator_autopilot.anomaly.domain.staleness import AGENT
from accelerator_autopilot.contracts.frames import TelemetryFrame
from accelerator_autopilot.contracts.messages.alerts import UNDETECTED_KINDS, Alert
from accelerator_autopilot.contracts.messages.commands import DrainCommand
from accelerator_autopilot.contracts.messages.telemetry import DeviceEvent, NodeInventory
from accelerator_autopilot.transport.clock import Clock

log = logging.getLogger(__name__)

# Health checks, events and alerts run at least this often, whatever frames contain.
MAX_TURN_S = 0.1
# An operator's clock may be behind by this much, and its command still cover what was just detected.
CLOCK_SKEW = timedelta(seconds=5)
REMOVED = "device removed"
NODE_GONE_AFTER, NODE_GONE = timedelta(days=7), "the node has been silent for so long that it is considered removed"
SOURCE_GONE, SOURCE_WELL = "the agent no longer reads this source", "the agent reports that the source works"
# An inventory may have been created before the source failed.
SOURCE_SETTLED = timedelta(seconds=90)
RECOVERY_ACTION = "recovery_action"


def store_nothing(_alert: Alert) -> None:
    """Store nothing: no state outlives this process."""


def before(until: datetime, why: str) -> Callable[[Alert, datetime], str]:
    """Return a function that gives `reason` for what was last detected before a moment."""

    def over(_alert: Alert, found_at: datetime) -> str:
        return why if found_at <= until else ""

    return over


@dataclass
class Detection:
    """All detectors, the alert lifecycle, and where its changes go.

    `publish` publishes a change; `keep` only stores what is open, for the next run.
    """

    watch: DetectionEngine
    detectors: list[EventDetector]
    book: AlertLifecycle
    publish: Callable[[Alert], Awaitable[None]]
    clock: Clock
    shadow_kinds: Sequence[str] = ()
    fleet: SourceTopology = field(default_factory=SourceTopology)
    keep: Callable[[Alert], None] = store_nothing
    node_gone_after: timedelta = NODE_GONE_AFTER
    _drivers: dict[tuple[str, str], str | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.book.epochs, self.watch.fleet = self.fleet.epochs, self.fleet

    async def on_frames(self, frames: Sequence[TelemetryFrame]) -> None:
        """Process every tick of some frames."""
        heard_s = self.clock().timestamp()
        turn = time.monotonic()
        for batch in batches(self.watch, frames):
            heard = np.full(len(batch.slots), heard_s)
            await self._take(self.watch.rows(batch.slots, batch.at_s, batch.values, batch.period_s, heard))
            if time.monotonic() - turn > MAX_TURN_S:
                await asyncio.sleep(0)
                turn = time.monotonic()

    async def on_event(self, event: DeviceEvent) -> None:
        """Pass an event to every detector."""
        proof = reset_reason(event)
        if proof:
            devices = self._with_alerts(event.node) if event.device == NODE else [event.device]
            for device in devices:
                await self._release(event.node, device, event.at, before(event.at, proof))
        elif event.kind == "appeared":
            told = event.boot_id, event.driver_epoch
            await self._release(event.node, event.device, event.at, lambda alert, _: reset_since(alert, *told))
        await self._take(f for detector in self.detectors for f in detector.on_event(event))

    async def on_time(self, now: datetime) -> None:
        """Let every detector process the passage of time."""
        await self._take(f for detector in self.detectors for f in detector.on_time(now))
        await self._take(self.watch.time(now.timestamp()))
        for alert in self.book.open_alerts:
            if alert.kind == AGENT.name and now - alert.opened_at >= self.node_gone_after:
                await self._end_node(alert.node, now)

    async def _end_node(self, node: str, now: datetime) -> None:
        """Resolve the alerts of a node that never came back, except those that only a reset or an operator resolves."""
        self.watch.forget_node(node)
        devices = {alert.device for alert in self.book.open_alerts if alert.node == node}
        held = {alert.device for alert in self.book.held_on(node)}
        for device in sorted(devices):
            if device not in held:
                self.watch.remove(node, device)
                for detector in self.detectors:
                    detector.forget(node, device)
            await self._tell(self.book.end(node, device, NODE_GONE, now, held=False))

    async def on_command(self, command: DrainCommand) -> None:
        """Handle an operator's restore command, which vouches for the device."""
        if command.action != "restore" or command.issuer == "scheduler":
            return
        until = min(self.clock(), command.at + CLOCK_SKEW)
        over = before(until, f"restored by {command.issuer}")
        await self._release(command.node, command.device, until, over)

    async def on_inventory(self, inventory: NodeInventory) -> None:
        """Handle an inventory: relearn a device with another driver; resolve what was reset or removed."""
        now = self.clock()
        self.fleet.take(inventory, now)
        for device in inventory.devices:
            key = (inventory.node, device.device)
            if self._drivers.get(key, device.driver) != device.driver:
                self.watch.forget(*key)
            self._drivers[key] = device.driver
        for name in {alert.device for alert in self.book.held_on(inventory.node)}:
            await self._release(inventory.node, name, now, lambda alert, _: reset_in(alert, inventory))
        for alert in self.book.held_on(inventory.node):
            changed = self.book.note_epochs(alert, *self.fleet.epochs(alert.node, alert.device))
            if changed is not None:
                self.keep(changed)
        await self._end_gone_sources(inventory, now)
        await self._look_at_node(inventory)
        for name in self.fleet.removed(inventory, self._with_alerts(inventory.node), now):
            self.watch.remove(inventory.node, name)
            for detector in self.detectors:
                detector.forget(inventory.node, name)
            await self._tell(self.book.end(inventory.node, name, REMOVED, now))

    async def _end_gone_sources(self, inventory: NodeInventory, now: datetime) -> None:
        """Resolve alerts of sources that are no longer configured, or are healthy since the agent's start."""
        failed = [a for a in self.book.open_alerts if (a.node, a.kind) == (inventory.node, SOURCE_FAILED)]
        for alert in failed if inventory.sources else []:
            state = inventory.sources.get(alert.device)
            well = state == "ok" and inventory.at - alert.at > SOURCE_SETTLED
            if state is None or well:
                why = SOURCE_WELL if well else SOURCE_GONE
                await self._tell(self.book.end(alert.node, alert.device, why, now, kinds={SOURCE_FAILED}))

    async def _look_at_node(self, inventory: NodeInventory) -> None:
        """Open or resolve the alert for missing devices; a node without any is not considered silent."""
        found = [missing_devices(inventory)]
        gone = all_gone(inventory)
        if gone is not None:
            self.watch.forget_node(inventory.node)
            found.append(gone)
        await self._take(found)

    def restore(self, alerts: Sequence[Alert]) -> None:
        """Continue with the alerts that were open before a restart."""
        self.book = AlertLifecycle(self.fleet.epochs)
        self.adopt(alerts)

    def adopt(self, alerts: Sequence[Alert]) -> None:
        """Take over alerts that are open and unknown to the lifecycle."""
        for alert in alerts:
            if alert.kind not in UNDETECTED_KINDS and self.book.adopt(alert):
                for detector in self.detectors:
                    detector.restore(alert)
                self.watch.restore(alert)

    def _with_alerts(self, node: str) -> list[str]:
        """Return a node's devices that have open alerts; the node itself, its sources and switches are not devices."""
        mine = (a for a in self.book.open_alerts if a.node == node and a.device != NODE)
        return sorted({alert.device for alert in mine if alert.kind != SOURCE_FAILED and not is_sxid(alert.kind)})

    async def _release(self, node: str, device: str, until: datetime, over: Callable[[Alert, datetime], str]) -> None:
        """Release held alerts of a device for which `over` gives a reason."""
        released, ended = self.book.release(node, device, over, self.clock())
        if released:
            self.watch.release(node, device)
            await self._tell(ended)
            await self._take(f for detector in self.detectors for f in detector.release(node, device, until))

    @property
    def published_alerts(self) -> list[Alert]:
        """Return the open alerts that are published."""
        return [alert for alert in self.book.open_alerts if not self._in_shadow(alert)]

    def _in_shadow(self, alert: Alert) -> bool:
        return any(fnmatchcase(alert.kind, pattern) for pattern in self.shadow_kinds)

    async def _take(self, findings: Iterable[Finding]) -> None:
        now = self.clock()
        for finding in findings:
            recovered = finding.kind == RECOVERY_ACTION and not finding.firing
            alert = self.book.observe(finding, now)
            if alert is None:
                continue
            await self._tell([alert])
            if recovered:
                # The driver clears its request only after a reset.
                why = "the driver no longer requests recovery"
                await self._release(finding.node, finding.device, now, lambda *_, said=why: said)

    async def _tell(self, alerts: Iterable[Alert]) -> None:
        for alert in alerts:
            if self._in_shadow(alert):
                told = {"id": alert.id, "kind": alert.kind, "state": alert.state, "device": alert.device}
                log.info("alert in shadow mode", extra=told | {"summary": alert.summary})
            else:
                self.watch.note_alerts(alert.node, alert.device, self.book)
                await self.publish(alert)

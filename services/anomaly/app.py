"""The anomaly detector's application: maps subjects to handlers and starts background tasks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial

from faststream import FastStream
from faststream.nats import KvWatch
from nats.js import JetStreamContext

from accelerator_autopilot.anomaly.adapters.model_snapshot import load as load_snapshot
from accelerator_autopilot.anomaly.adapters.model_snapshot import save as save_snapshot
from accelerator_autopilot.anomaly.application.alert_outbox import AlertOutbox, fits
from accelerator_autopilot.anomaly.application.frame_receiver import FrameReceiver
from accelerator_autopilot.anomaly.application.lost_alert_publishers import LostAlertPublishers
from accelerator_autopilot.anomaly.application.message_handlers import Detection
from accelerator_autopilot.anomaly.application.open_alert_bucket import OpenAlertBucket
from accelerator_autopilot.anomaly.application.periodic_tasks import (
    keep_inventories,
    keep_snapshot,
    keep_snapshots,
    watch_time,
)
from accelerator_autopilot.anomaly.domain.alert_lifecycle import AlertLifecycle
from accelerator_autopilot.anomaly.domain.detection_engine import DetectionEngine
from accelerator_autopilot.anomaly.domain.detectors import all_detectors
from accelerator_autopilot.anomaly.domain.device_slots import DeviceSlots
from accelerator_autopilot.anomaly.domain.learned.snapshot import Snapshot
from accelerator_autopilot.anomaly.domain.source_topology import SourceTopology
from accelerator_autopilot.anomaly.settings import AnomalySettings
from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.errors import InvalidInputError
from accelerator_autopilot.contracts.messages.alerts import Alert
from accelerator_autopilot.contracts.messages.commands import DrainCommand
from accelerator_autopilot.contracts.messages.jobs import PoolStatus
from accelerator_autopilot.contracts.messages.telemetry import DeviceEvent, NodeInventory
from accelerator_autopilot.contracts.streams import durable
from accelerator_autopilot.runtime.broker import client_of
from accelerator_autopilot.runtime.bus import BUS_ERRORS
from accelerator_autopilot.runtime.consumers import Watched, consume
from accelerator_autopilot.runtime.service import Service
from accelerator_autopilot.runtime.settings import load
from accelerator_autopilot.runtime.supervision import beat
from accelerator_autopilot.transport.clock import utc_now
from accelerator_autopilot.transport.direct_reads import bucket_items

log = logging.getLogger(__name__)

JOB_GROUPS_INTERVAL_S = 30.0
# The stream holds an event until its alerts are published; after this time it is redelivered.
SETTLED_WITHIN_S = 20.0
LONGEST_KIND = "x" * 40


def create_app(settings: AnomalySettings | None = None) -> FastStream:
    """Create the anomaly detector app."""
    settings = settings or load(AnomalySettings)
    service = Service("anomaly", settings)
    snapshot_path = settings.data_dir / "anomaly" / "learned.npz"
    outbox = AlertOutbox(service.bus, service.registry)

    async def publish(alert: Alert) -> None:
        outbox.put(alert)

    fleet = SourceTopology()
    detectors = all_detectors(settings.xid_hold_s, fleet)
    detection = Detection(
        make_engine(settings), detectors, AlertLifecycle(), publish, utc_now, settings.shadow_kinds, fleet, outbox.keep,
        timedelta(seconds=settings.node_gone_after_s),
    )  # fmt: skip
    intake = FrameReceiver(detection.on_frames, service.registry, service.poison)
    watched = subscribe(service, detection, outbox)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        restore_learned(detection, settings, load_snapshot(snapshot_path))
        async with service.running(watched) as js:
            kept = (await bucket_items(js, "open_alerts", Alert)).values()
            detection.restore([alert for alert in kept if alert.node != subjects.CLUSTER])
            stored = OpenAlertBucket(js, service.bus, outbox, lambda: detection.published_alerts, detection.adopt)
            await client_of(service.broker).subscribe(subjects.FRAMES, cb=intake.take)
            service.supervise("alerts", outbox.run, hang_timeout_s=60.0)
            service.supervise("frames", intake.run, hang_timeout_s=60.0)
            service.supervise("time", partial(watch_time, detection), hang_timeout_s=60.0)
            service.supervise("stored alerts", stored.run, hang_timeout_s=120.0)
            service.supervise("orphaned alerts", LostAlertPublishers(js, service.bus).run, hang_timeout_s=180.0)
            service.supervise("inventories", partial(keep_inventories, js, detection), hang_timeout_s=300.0)
            service.supervise("snapshots", partial(keep_snapshots, partial(save_snapshot, snapshot_path), detection))
            service.supervise("job groups", partial(follow_job_groups, js, detection), hang_timeout_s=180.0)
            yield
            keep_snapshot(partial(save_snapshot, snapshot_path), detection)

    return service.app(lifespan)


def subscribe(service: Service, detection: Detection, outbox: AlertOutbox) -> list[Watched]:
    """Subscribe to every subject; returns the durable consumers to monitor."""

    async def on_event(event: DeviceEvent) -> None:
        check_event(event)
        await detection.on_event(event)
        await outbox.settled(event.node, event.device, SETTLED_WITHIN_S)

    async def on_drain(command: DrainCommand) -> None:
        await detection.on_command(command)
        await outbox.settled(command.node, command.device, SETTLED_WITHIN_S)

    async def on_inventory(inventory: NodeInventory) -> None:
        await detection.on_inventory(inventory)

    events = durable("anomaly-events", subjects.EVENTS)
    # Operator commands also count when they were sent while nobody was listening.
    drains = durable("anomaly-drains", subjects.DRAIN_COMMANDS)
    watched = [
        consume(service.broker, "EVENTS", subjects.EVENTS, events, on_event),
        consume(service.broker, "COMMANDS", subjects.DRAIN_COMMANDS, drains, on_drain),
    ]
    service.broker.subscriber(">", kv_watch=KvWatch("inventory", declare=False), no_reply=True)(on_inventory)
    return watched


def check_event(event: DeviceEvent) -> None:
    """Check that an event's names fit the subject and the key of an alert. Raises InvalidInputError."""
    longest = Alert(
        id=event.id, node=event.node, device=event.device, kind=LONGEST_KIND, severity="critical", state="opened",
        summary="", opened_at=event.at, at=event.at,
    )  # fmt: skip
    if not fits(longest):
        raise InvalidInputError("device", event.device[:100], "is too long for the subject of an alert")


async def follow_job_groups(js: JetStreamContext, detection: Detection) -> None:
    """Track which devices work on one job; workers are long-lived, so polling occasionally is enough."""
    while True:
        beat()
        try:
            pools = (await bucket_items(js, "pools", PoolStatus)).values()
            workers = [(pool.node, worker.device.split("+")) for pool in pools for worker in pool.workers]
            detection.watch.join((node, devices) for node, devices in workers if len(devices) > 1)
        except (*BUS_ERRORS, TimeoutError) as error:
            log.info("jobs' devices not read", extra={"error": type(error).__name__})
        await asyncio.sleep(JOB_GROUPS_INTERVAL_S)


def make_engine(settings: AnomalySettings, roster: DeviceSlots | None = None) -> DetectionEngine:
    """Create the engine for these settings."""
    return DetectionEngine(settings.false_alarms_per_week, settings.node_timeout_s, roster=roster or DeviceSlots())


def restore_learned(detection: Detection, settings: AnomalySettings, snapshot: Snapshot | None) -> None:
    """Restore what was learned before a restart."""
    if snapshot is None:
        return
    watch = make_engine(settings, DeviceSlots.restore(snapshot.roster))
    try:
        watch.load(snapshot.arrays)
    except (InvalidInputError, KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        log.warning("snapshot does not fit; learning from scratch", extra={"error": str(error)})
        return
    watch.fleet = detection.fleet
    detection.watch = watch

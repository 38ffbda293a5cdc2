"""The anomaly detector: which subject goes to which function."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import torch
from faststream import FastStream
from faststream.nats import JStream, KvWatch, PullSub
from nats.js import JetStreamContext

from services.anomaly.adapters.snapshot_file import Snapshot
from services.anomaly.adapters.snapshot_file import load as load_snapshot
from services.anomaly.adapters.snapshot_file import save as save_snapshot
from services.anomaly.domain.alert_book import AlertBook
from services.anomaly.domain.detectors import all_detectors
from services.anomaly.domain.roster import Roster
from services.anomaly.domain.watch import Watch
from services.anomaly.handlers import Detection
from services.anomaly.intake import Intake
from services.anomaly.settings import AnomalySettings
from shared import subjects
from shared.broker import client_of
from shared.bus import BUS_ERRORS, Bus
from shared.client.reading import bucket_items
from shared.clock import utc_now
from shared.consuming import Watched
from shared.errors import InvalidInputError, UnavailableError
from shared.messages.alerts import Alert
from shared.messages.jobs import PoolStatus
from shared.messages.telemetry import DeviceEvent, NodeInventory
from shared.service import Service
from shared.settings import load
from shared.streams import durable

log = logging.getLogger(__name__)

SNAPSHOT_EVERY_S, GANGS_EVERY_S = 300.0, 30.0


def create_app(settings: AnomalySettings | None = None) -> FastStream:
    """The anomaly detector."""
    settings = settings or load(AnomalySettings)
    service = Service("anomaly", settings)
    broker = service.broker
    snapshot_path = settings.data_dir / "anomaly" / "learned.pt"

    publish = partial(publish_alert, service.bus)
    detectors = all_detectors(settings.xid_hold_s)
    detection = Detection(make_watch(settings), detectors, AlertBook(), publish, utc_now, settings.shadow_kinds)
    intake = Intake(detection.on_frames, service.registry)

    async def on_event(event: DeviceEvent) -> None:
        await detection.on_event(event)

    async def on_inventory(inventory: NodeInventory) -> None:
        detection.on_inventory(inventory)

    async def watch_time() -> None:
        while True:
            await detection.on_time(utc_now())
            await asyncio.sleep(1.0)

    async def keep_snapshots() -> None:
        while True:
            await asyncio.sleep(SNAPSHOT_EVERY_S)
            keep()

    def keep() -> None:
        try:
            save_snapshot(snapshot_path, Snapshot(detection.watch.roster.snapshot(), detection.watch.snapshot()))
        except OSError as error:
            log.warning("snapshot not kept", extra={"path": str(snapshot_path), "error": str(error)})

    events = durable("anomaly-events", subjects.EVENTS)
    broker.subscriber(
        subjects.EVENTS,
        stream=JStream("EVENTS", declare=False),
        durable=events.durable_name,
        config=events,
        pull_sub=PullSub(batch_size=1, timeout=10),
        no_reply=True,
    )(on_event)
    broker.subscriber(">", kv_watch=KvWatch("inventory", declare=False), no_reply=True)(on_inventory)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        # One thread serves any fleet that one process can hear; more only wait for each other.
        torch.set_num_threads(1)
        restore_learned(detection, settings, load_snapshot(snapshot_path))
        async with service.running([Watched("EVENTS", events)]) as js:
            detection.restore(list((await bucket_items(js, "open_alerts", Alert)).values()))
            await client_of(broker).subscribe(subjects.FRAMES, cb=intake.take)
            service.spawn(intake.run())
            service.spawn(watch_time())
            service.spawn(keep_snapshots())
            service.spawn(keep_gangs(js, detection))
            yield
            keep()

    return service.app(lifespan)


async def keep_gangs(js: JetStreamContext, detection: Detection) -> None:
    """Follow which devices work together, until cancelled; workers stay for long, so now and then is enough."""
    while True:
        try:
            pools = (await bucket_items(js, "pools", PoolStatus)).values()
            workers = [(pool.node, worker.device.split("+")) for pool in pools for worker in pool.workers]
            detection.watch.join((node, devices) for node, devices in workers if len(devices) > 1)
        except BUS_ERRORS as error:
            log.info("jobs' devices not read", extra={"error": type(error).__name__})
        await asyncio.sleep(GANGS_EVERY_S)


def make_watch(settings: AnomalySettings, roster: Roster | None = None) -> Watch:
    """The watch that the settings ask for."""
    return Watch(settings.false_alarms_per_week, settings.silent_after_s, roster=roster or Roster())


def restore_learned(detection: Detection, settings: AnomalySettings, snapshot: Snapshot | None) -> None:
    """Go on from what was learnt before a restart."""
    if snapshot is None:
        return
    watch = make_watch(settings, Roster.restore(snapshot.roster))
    try:
        watch.load(snapshot.tensors)
    except (InvalidInputError, KeyError) as error:
        log.warning("snapshot does not fit, learning anew", extra={"error": str(error)})
        return
    detection.watch = watch


async def publish_alert(bus: Bus, alert: Alert) -> None:
    """Publish a change of an alert, however long it takes: the book has moved on and will not repeat it."""
    log.info("alert", extra={"id": alert.id, "kind": alert.kind, "state": alert.state, "device": alert.device})
    key = subjects.alert_key(alert.node, alert.device, alert.kind)
    identity = f"{alert.id}-{alert.state}-{alert.at.isoformat()}"
    while True:
        try:
            await bus.publish(subjects.alert(alert.severity, alert.node, alert.device), alert, identity)
            if alert.state == "resolved":
                await bus.delete("open_alerts", key)
            else:
                await bus.write("open_alerts", key, alert)
        except UnavailableError as error:
            log.warning("alert waits for the broker", extra={"id": alert.id, "error": str(error)})
            await asyncio.sleep(0.5)
        else:
            return

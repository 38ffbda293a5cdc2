"""The anomaly detector: which subject goes to which function."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from faststream import FastStream
from faststream.nats import JStream, NatsMessage, PullSub

from services.anomaly.domain.alert_book import AlertBook
from services.anomaly.domain.detectors import Tuning, all_detectors
from services.anomaly.handlers import Detection
from services.anomaly.settings import AnomalySettings
from shared import subjects
from shared.bus import Bus
from shared.client.reading import bucket_items
from shared.clock import utc_now
from shared.consuming import Watched
from shared.errors import UnavailableError
from shared.frames import decode
from shared.messages.alerts import Alert
from shared.messages.telemetry import DeviceEvent
from shared.service import Service
from shared.settings import load
from shared.streams import durable

log = logging.getLogger(__name__)


def create_app(settings: AnomalySettings | None = None) -> FastStream:
    """The anomaly detector."""
    settings = settings or load(AnomalySettings)
    service = Service("anomaly", settings)
    broker = service.broker

    tuning = Tuning(settings.xid_hold_s, settings.silent_after_s, settings.robust_threshold)
    detection = Detection(all_detectors(tuning), AlertBook(), partial(publish_alert, service.bus), utc_now)

    async def on_frame(message: NatsMessage) -> None:
        await detection.on_frame(decode(message.body))

    async def on_event(event: DeviceEvent) -> None:
        await detection.on_event(event)

    async def watch_time() -> None:
        while True:
            await detection.on_time(utc_now())
            await asyncio.sleep(1.0)

    events = durable("anomaly-events", subjects.EVENTS)
    # A reply would be taken for the stream's own confirmation by the agent that published the frame.
    broker.subscriber(subjects.FRAMES, no_reply=True)(on_frame)
    broker.subscriber(
        subjects.EVENTS,
        stream=JStream("EVENTS", declare=False),
        durable=events.durable_name,
        config=events,
        pull_sub=PullSub(batch_size=1, timeout=10),
        no_reply=True,
    )(on_event)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        async with service.running([Watched("EVENTS", events)]) as js:
            alerts = list((await bucket_items(js, "open_alerts", Alert)).values())
            detection.book = AlertBook.restore(alerts)
            for detector in detection.detectors:
                for alert in alerts:
                    detector.restore(alert)
            service.spawn(watch_time())
            yield

    return service.app(lifespan)


async def publish_alert(bus: Bus, alert: Alert) -> None:
    """Publish a change of an alert, however long it takes: the book has moved on and will not repeat it."""
    log.info("alert", extra={"id": alert.id, "kind": alert.kind, "state": alert.state, "device": alert.device})
    key = ".".join(subjects.token(part) for part in (alert.node, alert.device, alert.kind))
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

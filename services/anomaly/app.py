"""The anomaly detector: which subject goes to which function."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import nats.errors
from faststream import FastStream
from faststream.nats import JStream, NatsMessage, PullSub
from nats.js import JetStreamContext
from nats.js.errors import APIError, KeyNotFoundError

from services.anomaly.domain.alert_book import AlertBook
from services.anomaly.domain.detectors import Tuning, all_detectors
from services.anomaly.handlers import Detection
from services.anomaly.settings import AnomalySettings
from shared import subjects
from shared.broker import client_of
from shared.client.reading import bucket_items
from shared.clock import utc_now
from shared.consuming import Watched
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

    def js() -> JetStreamContext:
        return client_of(broker).jetstream(timeout=5.0)

    async def publish(alert: Alert) -> None:
        log.info("alert", extra={"id": alert.id, "kind": alert.kind, "state": alert.state, "device": alert.device})
        while True:
            # The book has moved on: a change that is not published now would never be.
            try:
                await _publish_once(js(), alert)
            except (nats.errors.Error, APIError, OSError) as error:
                log.warning("alert waits for the broker", extra={"id": alert.id, "error": type(error).__name__})
                await asyncio.sleep(0.5)
            else:
                return

    tuning = Tuning(settings.xid_hold_s, settings.silent_after_s, settings.robust_threshold)
    detection = Detection(all_detectors(tuning), AlertBook(), publish, utc_now)

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
        subjects.EVENTS, stream=JStream("EVENTS", declare=False), durable=events.durable_name, config=events,
        pull_sub=PullSub(batch_size=1, timeout=10), no_reply=True,
    )(on_event)  # fmt: skip

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


async def _publish_once(js: JetStreamContext, alert: Alert) -> None:
    body = alert.model_dump_json().encode()
    identity = f"{alert.id}-{alert.state}-{alert.at.isoformat()}"
    subject = subjects.alert(alert.severity, alert.node, alert.device)
    await js.publish(subject, body, headers={"Nats-Msg-Id": identity})
    kv = await js.key_value("open_alerts")
    key = ".".join(subjects.token(part) for part in (alert.node, alert.device, alert.kind))
    if alert.state != "resolved":
        await kv.put(key, body)
        return
    try:
        await kv.delete(key)
    except KeyNotFoundError:
        log.info("alert was not listed as open", extra={"id": alert.id})

"""The scheduler: which subject goes to which function."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import nats.errors
from faststream import FastStream
from faststream.nats import JStream, NatsMessage, PullSub
from nats.js import JetStreamContext
from nats.js.errors import APIError
from prometheus_client import Counter, Gauge

from services.scheduler.adapters.fleet_reader import FleetReader
from services.scheduler.adapters.leader import Leadership
from services.scheduler.deciding import Decider
from services.scheduler.domain.policies import make_policy
from services.scheduler.settings import SchedulerSettings
from shared import subjects
from shared.broker import client_of
from shared.clock import utc_now
from shared.consuming import Watched
from shared.frames import decode
from shared.ids import new_id
from shared.messages.alerts import Alert
from shared.messages.base import Message
from shared.service import Service
from shared.settings import load
from shared.streams import durable

log = logging.getLogger(__name__)


def create_app(settings: SchedulerSettings | None = None) -> FastStream:
    """The scheduler; any number may run, one leads."""
    settings = settings or load(SchedulerSettings)
    service = Service("scheduler", settings)
    broker = service.broker
    policy = make_policy(settings.policy_name)
    wake = asyncio.Event()
    leading = Gauge("autopilot_scheduler_leading", "1 while this process leads", registry=service.registry)
    counter = Counter("autopilot_decisions", "decisions by reason", ["reason"], registry=service.registry)
    reader: FleetReader | None = None

    async def on_frame(message: NatsMessage) -> None:
        if reader is not None:
            reader.on_frame(decode(message.body), utc_now())

    async def on_alert(alert: Alert) -> None:
        if alert.severity == "critical":
            wake.set()

    async def publish(subject: str, message: Message, message_id: str) -> None:
        js = client_of(broker).jetstream(timeout=5.0)
        await js.publish(subject, message.model_dump_json().encode(), headers={"Nats-Msg-Id": message_id})

    async def decide_for_ever(js: JetStreamContext, fleet: FleetReader, leadership: Leadership) -> None:
        decider = Decider(js, fleet, policy, publish, utc_now, counter, settings.cap_lease_s)
        while True:
            token = leadership.token
            leading.set(1 if token else 0)
            if token:
                try:
                    await decider.decide(token)
                    service.health.report("deciding", ok=True)
                except (nats.errors.Error, APIError, OSError) as error:
                    service.health.report("deciding", ok=False, reason=f"{type(error).__name__}: {error}")
                    log.warning("no decision", extra={"error": type(error).__name__})
                except Exception as error:
                    service.health.report("deciding", ok=False, reason=f"{type(error).__name__}: {error}")
                    log.exception("decision failed")
            try:
                async with asyncio.timeout(settings.decide_period_s):
                    await wake.wait()
            except TimeoutError:
                pass
            wake.clear()

    alerts = durable("scheduler-alerts", subjects.ALERTS)
    # A reply would be taken for the stream's own confirmation by the agent that published the frame.
    broker.subscriber(subjects.FRAMES, no_reply=True)(on_frame)
    broker.subscriber(
        subjects.ALERTS, stream=JStream("ALERTS", declare=False), durable=alerts.durable_name, config=alerts,
        pull_sub=PullSub(batch_size=1, timeout=10), no_reply=True,
    )(on_alert)  # fmt: skip

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        nonlocal reader
        async with service.running([Watched("ALERTS", alerts)]) as js:
            reader = FleetReader(js, settings.stale_after_s)
            leadership = Leadership(js, f"{settings.node}-{new_id()[:8]}")
            service.spawn(leadership.run())
            service.spawn(decide_for_ever(js, reader, leadership))
            yield

    return service.app(lifespan)

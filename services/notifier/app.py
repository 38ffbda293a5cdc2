"""The notifier's application: delivers alerts to subscriptions as signed webhooks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial

from faststream import FastStream
from faststream.nats import KvWatch
from nats.js import JetStreamContext

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.errors import UnavailableError
from accelerator_autopilot.contracts.messages.alerts import Alert
from accelerator_autopilot.contracts.messages.audit import AuditRecord
from accelerator_autopilot.contracts.messages.notifications import (
    Acknowledgement,
    DeliveryReply,
    DeliveryRequest,
    Silence,
    Subscription,
)
from accelerator_autopilot.notifier.adapters.ledger_store import NatsLedgerStore
from accelerator_autopilot.notifier.adapters.webhook_sender import AiohttpWebhookSender
from accelerator_autopilot.notifier.application.delivery_context import DeliveryContext
from accelerator_autopilot.notifier.application.subscription_supervisor import SubscriptionSupervisor
from accelerator_autopilot.notifier.settings import NotifierSettings
from accelerator_autopilot.runtime.audit_log import AuditOutbox
from accelerator_autopilot.runtime.broker import client_of
from accelerator_autopilot.runtime.bus import BUS_ERRORS, Bus
from accelerator_autopilot.runtime.service import Service
from accelerator_autopilot.runtime.settings import load
from accelerator_autopilot.runtime.supervision import beat
from accelerator_autopilot.transport.direct_reads import bucket_items, bucket_values
from accelerator_autopilot.transport.unreadable_values import parse_value

log = logging.getLogger(__name__)

RESYNC_S, CLEANUP_INTERVAL_S = 10.0, 600.0
HANG_TIMEOUT_S = 120.0
LOOKUPS = 64
TESTS_AT_ONCE = 16


def create_app(settings: NotifierSettings | None = None) -> FastStream:
    """Create the notifier app."""
    settings = settings or load(NotifierSettings)
    service = Service("notifier", settings)
    broker = service.broker
    changed = asyncio.Event()
    running: list[SubscriptionSupervisor] = []

    async def on_change() -> None:
        changed.set()

    async def on_delivery(request: DeliveryRequest) -> DeliveryReply:
        if not running:
            return DeliveryReply(ok=False, detail="the notifier is still starting")
        return await running[0].deliver_now(request)

    for bucket in ("subscriptions", "silences"):
        broker.subscriber(">", kv_watch=KvWatch(bucket, declare=False), no_reply=True)(on_change)
    broker.subscriber(subjects.DELIVER, max_workers=TESTS_AT_ONCE)(on_delivery)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        async with service.running() as js:
            receiver = AiohttpWebhookSender(
                settings.webhook_timeout_s, private_targets=settings.webhook_private_targets
            )
            outbox = AuditOutbox(partial(write_audit, service.bus), service.registry)
            unattended = partial(needs_escalation, service.bus)
            store = NatsLedgerStore(js)
            known = partial(open_alerts, js)
            around = DeliveryContext(
                client_of(broker), js, settings, receiver, store, outbox.put, unattended, known, service.poison
            )
            dispatcher = SubscriptionSupervisor(around, service.supervisor)
            running.append(dispatcher)
            # Names are looked up in threads: a few that hang must leave some for the others.
            asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(LOOKUPS, "lookup"))
            service.supervise("open alerts", partial(around.still_open.run, js), hang_timeout_s=HANG_TIMEOUT_S)
            service.supervise("audit", outbox.run, hang_timeout_s=HANG_TIMEOUT_S)
            service.supervise(
                "subscriptions", lambda: keep_synced(service, dispatcher, changed), hang_timeout_s=HANG_TIMEOUT_S
            )
            yield
            await service.end_tasks()
            await receiver.close()

    return service.app(lifespan)


async def write_audit(bus: Bus, record: AuditRecord) -> None:
    """Write a record to the audit stream."""
    await bus.publish(subjects.audit(record.actor), record, record.id)


async def needs_escalation(bus: Bus, alert: Alert) -> bool:
    """Whether an alert is still open and unacknowledged. Raises UnavailableError while that is unknown.

    An alert missing in the bucket was resolved, which will be published soon, or it was lost there and is still
    open.
    """
    if await bus.read("acknowledged", subjects.token(alert.id), Acknowledgement) is not None:
        return False
    key = subjects.alert_key(alert.node, alert.device, alert.kind)
    if await bus.read("open_alerts", key, Alert) is None:
        raise UnavailableError(f"alert {alert.id} is not open")
    return True


async def open_alerts(js: JetStreamContext) -> list[Alert]:
    """Return every open alert. Raises UnavailableError."""
    try:
        return list((await bucket_items(js, "open_alerts", Alert)).values())
    except BUS_ERRORS as error:
        raise UnavailableError(f"open alerts could not be read: {type(error).__name__}") from error


async def keep_synced(service: Service, dispatcher: SubscriptionSupervisor, changed: asyncio.Event) -> None:
    """Follow subscriptions and silences until cancelled."""
    js = dispatcher.around.js
    loop, next_tidy_s = asyncio.get_running_loop(), 0.0
    # A watch can miss changes after an outage, so the buckets are reread periodically.
    while True:
        beat()
        changed.clear()
        try:
            dispatcher.silence(await bucket_items(js, "silences", Silence))
            # Without its bucket nothing is known, which differs from having no subscription.
            await js.stream_info("KV_subscriptions")
            values = await bucket_values(js, "subscriptions")
            parsed = {key: parse_value("subscriptions", key, value, Subscription) for key, value in values.items()}
            kept = values.keys()
            await dispatcher.sync({key: s for key, s in parsed.items() if s is not None}, kept)
            if next_tidy_s <= loop.time():
                next_tidy_s = loop.time() + CLEANUP_INTERVAL_S
                await dispatcher.remove_orphans(kept)
            service.health.report("subscriptions", ok=True)
        except BUS_ERRORS as error:
            service.health.report("subscriptions", ok=False, reason=f"not read: {type(error).__name__}")
        with suppress(TimeoutError):
            async with asyncio.timeout(RESYNC_S):
                await changed.wait()

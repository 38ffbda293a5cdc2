"""The notifier: subscriptions in, signed webhooks out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from faststream import FastStream
from faststream.nats import KvWatch

from services.notifier.adapters.receiver import WebhookReceiver
from services.notifier.dispatch import Dispatcher
from services.notifier.settings import NotifierSettings
from shared import subjects
from shared.bus import BUS_ERRORS
from shared.client.reading import bucket_items
from shared.messages.audit import AuditRecord, Subscription
from shared.service import Service
from shared.settings import load

log = logging.getLogger(__name__)

RESYNC_S = 10.0


def create_app(settings: NotifierSettings | None = None) -> FastStream:
    """The notifier."""
    settings = settings or load(NotifierSettings)
    service = Service("notifier", settings)
    broker = service.broker
    changed = asyncio.Event()

    async def on_subscription() -> None:
        changed.set()

    async def audit(record: AuditRecord) -> None:
        await service.bus.publish(subjects.audit(record.actor), record, record.id)

    async def keep_synced(dispatcher: Dispatcher) -> None:
        try:
            await follow(dispatcher)
        finally:
            await dispatcher.stop()

    async def follow(dispatcher: Dispatcher) -> None:
        # Watches go blind for a while after an outage, so the bucket is read anew now and then.
        while True:
            try:
                await dispatcher.sync(await bucket_items(dispatcher.js, "subscriptions", Subscription))
                service.health.report("subscriptions", ok=True)
            except BUS_ERRORS as error:
                service.health.report("subscriptions", ok=False, reason=f"not read: {type(error).__name__}")
            try:
                async with asyncio.timeout(RESYNC_S):
                    await changed.wait()
            except TimeoutError:
                pass
            changed.clear()

    broker.subscriber(">", kv_watch=KvWatch("subscriptions", declare=False), no_reply=True)(on_subscription)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        async with service.running() as js:
            receiver = WebhookReceiver(settings.webhook_timeout_s, private_targets=settings.webhook_private_targets)
            dispatcher = Dispatcher(js, settings, receiver, audit)
            service.spawn(keep_synced(dispatcher))
            yield
            await receiver.close()

    return service.app(lifespan)

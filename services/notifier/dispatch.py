"""One durable consumer on ALERTS per subscription: nothing is lost across restarts, and none waits for another."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import nats.errors
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import DeliverPolicy
from nats.js.errors import APIError, NotFoundError
from pydantic import ValidationError

from services.notifier.adapters.receiver import RefusedTargetError, WebhookReceiver
from services.notifier.domain.breaker import CircuitBreaker
from services.notifier.domain.delivery import payload, retry_delay_s, wants
from services.notifier.settings import NotifierSettings
from shared.clock import utc_now
from shared.consuming import pull_batches
from shared.errors import AutopilotError, InvalidInputError
from shared.ids import derived_id, new_id
from shared.messages.alerts import Alert
from shared.messages.audit import AuditRecord, Subscription
from shared.streams import durable, ensure_consumer

log = logging.getLogger(__name__)

Audit = Callable[[AuditRecord], Awaitable[None]]


def durable_name(subscription: Subscription) -> str:
    """The consumer of a subscription."""
    return f"notifier-{subscription.id}"


@dataclass
class Dispatcher:
    """Runs one delivery loop per subscription."""

    js: JetStreamContext
    settings: NotifierSettings
    receiver: WebhookReceiver
    audit: Audit
    _loops: dict[str, tuple[Subscription, asyncio.Task[None]]] = field(default_factory=dict)

    async def sync(self, subscriptions: dict[str, Subscription]) -> None:
        """Start loops of new subscriptions, stop those of removed ones, restart changed ones."""
        for key in list(self._loops):
            if subscriptions.get(key) != self._loops[key][0]:
                known, task = self._loops.pop(key)
                task.cancel()
                if key not in subscriptions:
                    await self._remove(known)
        for key, subscription in subscriptions.items():
            if key not in self._loops:
                self._loops[key] = (subscription, asyncio.create_task(self._deliver_for_ever(subscription)))

    async def stop(self) -> None:
        """Stop every loop; what was not acknowledged is delivered after the next start."""
        tasks = [task for _, task in self._loops.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _remove(self, subscription: Subscription) -> None:
        try:
            await self.js.delete_consumer("ALERTS", durable_name(subscription))
        except NotFoundError:
            log.info("consumer was gone already", extra={"subscription": subscription.id})

    async def _deliver_for_ever(self, subscription: Subscription) -> None:
        name = durable_name(subscription)
        limit = self.settings.webhook_concurrency
        config = durable(
            name,
            ack_wait_s=60.0,
            max_ack_pending=256,
            deliver_policy=DeliverPolicy.BY_START_TIME,
            opt_start_time=subscription.created_at.isoformat(),
        )
        while True:
            try:
                await ensure_consumer(self.js, "ALERTS", config)
                break
            except (APIError, nats.errors.Error, OSError) as error:
                log.warning("consumer not made yet", extra={"subscription": name, "error": str(error)})
                await asyncio.sleep(1.0)
        breaker = CircuitBreaker()
        async for batch in pull_batches(self.js, "ALERTS", name, batch=limit):
            pause = breaker.wait_s(asyncio.get_running_loop().time())
            if pause > 0:
                for message in batch:
                    await message.nak(delay=pause)
                await asyncio.sleep(min(pause, 5.0))
                continue
            await asyncio.gather(*(self._deliver(subscription, message, breaker) for message in batch))

    async def _deliver(self, subscription: Subscription, message: Msg, breaker: CircuitBreaker) -> None:
        try:
            alert = Alert.model_validate_json(message.data)
        except ValidationError:
            await message.term()
            return
        if not wants(subscription, alert):
            await message.ack()
            return
        attempt = message.metadata.num_delivered
        identity = f"msg_{derived_id(subscription.id, str(message.metadata.sequence.stream))}"
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            await self.receiver.post(subscription, identity, utc_now(), payload(alert))
        except (RefusedTargetError, InvalidInputError) as error:
            await self._note("webhook.refused", subscription, alert, attempt, str(error))
            await message.term()
        except AutopilotError as error:
            await self._failed(subscription, message, breaker, alert, str(error))
        else:
            breaker.succeeded()
            await message.ack()
            await self._note("webhook.delivered", subscription, alert, attempt, f"{(loop.time() - began) * 1e3:.0f} ms")

    async def _failed(
        self, subscription: Subscription, message: Msg, breaker: CircuitBreaker, alert: Alert, reason: str
    ) -> None:
        attempt = message.metadata.num_delivered
        if utc_now() - _stored_at(message) > timedelta(seconds=self.settings.webhook_give_up_s):
            await self._note("webhook.abandoned", subscription, alert, attempt, reason)
            await message.term()
            return
        if breaker.failed(asyncio.get_running_loop().time()):
            log.warning("receiver left alone for a while", extra={"subscription": subscription.id})
        await self._note("webhook.failed", subscription, alert, attempt, reason)
        await message.nak(delay=retry_delay_s(attempt, random.random()))

    async def _note(self, action: str, subscription: Subscription, alert: Alert, attempt: int, detail: str) -> None:
        log.info(action, extra={"subscription": subscription.id, "alert": alert.id, "attempt": attempt})
        await self.audit(
            AuditRecord(
                id=new_id(),
                actor="notifier",
                action=action,
                target=subscription.id,
                at=utc_now(),
                detail={"alert": alert.id, "state": alert.state, "attempt": str(attempt), "detail": detail},
            )
        )


def _stored_at(message: Msg) -> datetime:
    return message.metadata.timestamp

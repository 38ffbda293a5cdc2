"""One subscription's deliveries: a durable consumer of its own, in order of each device, for as long as it takes."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, DeliverPolicy
from nats.js.errors import APIError
from pydantic import ValidationError

from services.notifier.adapters.receiver import RefusedTargetError, WebhookReceiver
from services.notifier.domain.breaker import CircuitBreaker
from services.notifier.domain.delivery import Rate, quiet_s, retry_delay_s, silenced, wants
from services.notifier.domain.formats import body_of
from services.notifier.domain.grouping import IncidentGrouping
from services.notifier.settings import NotifierSettings
from shared import subjects
from shared.clock import utc_now
from shared.errors import AutopilotError, InvalidInputError
from shared.ids import derived_id, new_id
from shared.messages.alerts import Alert
from shared.messages.audit import AuditRecord
from shared.messages.notices import Silence, Subscription
from shared.puller import Puller
from shared.streams import durable, ensure_consumer

log = logging.getLogger(__name__)

BEHIND_S = 0.5  # until a message is looked at again that an earlier one of its device keeps waiting
LONGEST_NAK_S = 600.0
PULL_S, LOOK_S = 30.0, 5.0  # a thousand subscriptions that ask every second or two would keep a core busy with asking
MOST_FILTERS = 100


def durable_name(subscription: Subscription) -> str:
    """The consumer of a subscription."""
    return f"notifier-{subscription.id}"


def stream_filters(subscription: Subscription) -> list[str]:
    """Subjects that hold all that a subscription wants, so that the server sends it little else; none is all."""
    severities, nodes = sorted(set(subscription.severities)), sorted(set(subscription.nodes))
    if not (severities or nodes) or max(1, len(severities)) * max(1, len(nodes)) > MOST_FILTERS:
        return []
    pairs = [(severity, node) for severity in severities or [""] for node in nodes or [""]]
    return [subjects.alerts_matching(severity, node) for severity, node in pairs]


@dataclass
class Surroundings:
    """What all deliveries share: the receiver, what is silenced, who is told of what was done."""

    nc: Client
    js: JetStreamContext
    settings: NotifierSettings
    receiver: WebhookReceiver
    audit: Callable[[AuditRecord], Awaitable[None]]
    needs_somebody: Callable[[Alert], Awaitable[bool]]
    silences: dict[str, Silence] = field(default_factory=dict)

    async def note(self, action: str, subscription: Subscription, alert: Alert, attempt: int, detail: str) -> None:
        """Write the delivery log."""
        log.info(action, extra={"subscription": subscription.id, "alert": alert.id, "attempt": attempt})
        told = {"alert": alert.id, "state": alert.state, "attempt": str(attempt), "detail": detail}
        record = AuditRecord(
            id=new_id(), actor="notifier", action=action, target=subscription.id, at=utc_now(), detail=told
        )
        await self.audit(record)


@dataclass
class Deliveries:
    """The loop of one subscription."""

    subscription: Subscription
    around: Surroundings
    _breaker: CircuitBreaker = field(default_factory=CircuitBreaker)
    _rate: Rate = field(default_factory=Rate)
    _grouping: IncidentGrouping = field(default_factory=IncidentGrouping)
    _attempts: dict[int, int] = field(default_factory=dict)
    _first_waiting: dict[tuple[str, str], int] = field(default_factory=dict)

    async def run(self) -> None:
        """Deliver until cancelled; what was not acknowledged is delivered after the next start."""
        name = durable_name(self.subscription)
        limit = self.around.settings.webhook_concurrency
        config = durable(
            name,
            *stream_filters(self.subscription),
            ack_wait_s=60.0,
            max_ack_pending=256,
            deliver_policy=DeliverPolicy.BY_START_TIME,
            opt_start_time=self.subscription.created_at.isoformat(),
        )
        await self._make(config)
        arrived = asyncio.Event()
        puller = Puller(self.around.nc, "ALERTS", name, arrived, expires_s=PULL_S)
        await puller.start()
        try:
            while True:
                await self._pull(puller, limit, arrived)
                if puller.missing:
                    await self._make(config)
                    await asyncio.sleep(BEHIND_S)
                await self._deliver_all([puller.ready.popleft() for _ in range(min(limit, len(puller.ready)))])
        finally:
            for message in await puller.stop():
                await message.nak()

    async def _make(self, config: ConsumerConfig) -> None:
        while True:
            try:
                await ensure_consumer(self.around.js, "ALERTS", config)
            except (APIError, nats.errors.Error, OSError) as error:
                log.warning("consumer not made yet", extra={"subscription": config.name, "error": str(error)})
                await asyncio.sleep(1.0)
            else:
                return

    async def _pull(self, puller: Puller, limit: int, arrived: asyncio.Event) -> None:
        """Until there is a message, or for a while."""
        arrived.clear()
        try:
            await puller.ask(limit)
        except (nats.errors.Error, OSError) as error:
            log.info("not asked", extra={"durable": puller.durable, "error": type(error).__name__})
            await asyncio.sleep(BEHIND_S)
        if not puller.ready:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await arrived.wait()

    async def _deliver_all(self, batch: list[Msg]) -> None:
        pause = self._breaker.wait_s(asyncio.get_running_loop().time()) if batch else 0.0
        if pause > 0:
            for message in batch:
                await message.nak(delay=pause)
            await asyncio.sleep(min(pause, 5.0))
            return
        of_device: dict[str, list[Msg]] = defaultdict(list)
        for message in batch:
            of_device[message.subject.split(".", 2)[-1]].append(message)
        await asyncio.gather(*(self._in_order(messages) for messages in of_device.values()))

    async def _in_order(self, messages: list[Msg]) -> None:
        for message in messages:
            await self._deliver(message)

    async def _deliver(self, message: Msg) -> None:
        try:
            alert = Alert.model_validate_json(message.data)
        except ValidationError:
            await message.term()
            return
        if not wants(self.subscription, alert):
            await message.ack()
            return
        sequence, device = message.metadata.sequence.stream, (alert.node, alert.device)
        if self._first_waiting.get(device, sequence) < sequence:
            await message.nak(delay=BEHIND_S)
            return
        retried = sequence in self._attempts or self._first_waiting.get(device) == sequence
        if self.subscription.by_incident and not retried and not self._grouping.tells(alert):
            await self._done(message, device, sequence)
            return
        if await self._waits(message, alert, sequence):
            return
        attempt = self._attempts.get(sequence, 0) + 1
        began = asyncio.get_running_loop().time()
        try:
            await self.tell(alert, str(sequence))
        except (RefusedTargetError, InvalidInputError) as error:
            await self.around.note("webhook.refused", self.subscription, alert, attempt, str(error))
            await self._done(message, device, sequence, ended=True)
        except AutopilotError as error:
            await self._failed(message, alert, device, attempt, str(error))
        else:
            took_ms = (asyncio.get_running_loop().time() - began) * 1e3
            self._breaker.succeeded()
            await self._done(message, device, sequence)
            await self.around.note("webhook.delivered", self.subscription, alert, attempt, f"{took_ms:.0f} ms")

    async def tell(self, alert: Alert, cause: str) -> None:
        """Post one alert now. Raises AutopilotError."""
        identity = f"msg_{derived_id(self.subscription.id, cause)}"
        body = body_of(self.subscription, alert, identity)
        await self.around.receiver.post(self.subscription, identity, utc_now(), body)

    async def _waits(self, message: Msg, alert: Alert, sequence: int) -> bool:
        """Whether an alert is not told now: silenced, in quiet hours, over the rate, or not yet to be escalated."""
        now = utc_now()
        silence = silenced(self.around.silences.values(), alert, now)
        if silence is not None and alert.state != "resolved":
            await self.around.note("webhook.silenced", self.subscription, alert, 0, silence.id)
            await self._done(message, (alert.node, alert.device), sequence)
            return True
        escalate_s = self.subscription.escalate_after_s
        if escalate_s and alert.state != "resolved":
            left_s = escalate_s - (now - alert.opened_at).total_seconds()
            if left_s > 0:
                return await self._later(message, alert, sequence, left_s)
            if not await self.around.needs_somebody(alert):
                await self._done(message, (alert.node, alert.device), sequence)
                return True
        wait_s = quiet_s(self.subscription, alert, now)
        wait_s = wait_s or self._rate.wait_s(self.subscription.per_minute, asyncio.get_running_loop().time())
        return await self._later(message, alert, sequence, wait_s) if wait_s > 0 else False

    async def _later(self, message: Msg, alert: Alert, sequence: int, wait_s: float) -> bool:
        self._hold((alert.node, alert.device), sequence)
        await message.nak(delay=min(wait_s, LONGEST_NAK_S))
        return True

    async def _failed(self, message: Msg, alert: Alert, device: tuple[str, str], attempt: int, reason: str) -> None:
        sequence = message.metadata.sequence.stream
        if utc_now() - _stored_at(message) > timedelta(seconds=self.around.settings.webhook_give_up_s):
            await self.around.note("webhook.abandoned", self.subscription, alert, attempt, reason)
            await self._done(message, device, sequence, ended=True)
            return
        self._attempts[sequence] = attempt
        self._hold(device, sequence)
        if self._breaker.failed(asyncio.get_running_loop().time()):
            log.warning("receiver left alone for a while", extra={"subscription": self.subscription.id})
        await self.around.note("webhook.failed", self.subscription, alert, attempt, reason)
        await message.nak(delay=retry_delay_s(attempt, random.random()))

    def _hold(self, device: tuple[str, str], sequence: int) -> None:
        self._first_waiting[device] = min(sequence, self._first_waiting.get(device, sequence))

    async def _done(self, message: Msg, device: tuple[str, str], sequence: int, *, ended: bool = False) -> None:
        self._attempts.pop(sequence, None)
        if self._first_waiting.get(device) == sequence:
            del self._first_waiting[device]
        await (message.term() if ended else message.ack())


def _stored_at(message: Msg) -> datetime:
    return message.metadata.timestamp

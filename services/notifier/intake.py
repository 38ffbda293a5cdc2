"""One subscription's alerts out of the stream, through a durable consumer of its own."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, DeliverPolicy
from nats.js.errors import APIError

from services.notifier.domain.ledger import RANK
from shared import subjects
from shared.errors import InvalidInputError
from shared.messages.notices import Subscription
from shared.puller import Puller
from shared.streams import durable, ensure_consumer
from shared.supervision import beat

log = logging.getLogger(__name__)

AT_ONCE = 64
PULL_S = 30.0  # a thousand subscriptions that ask every second or two would keep a core busy with asking
PAUSE_S = 0.5
MOST_FILTERS = 100
_FILES_GONE = "no such file or directory"


def durable_name(subscription: Subscription) -> str:
    """The consumer of a subscription."""
    return f"notifier-{subscription.id}"


def stream_filters(subscription: Subscription) -> list[str]:
    """Subjects that hold all that a subscription wants, so that the server sends it little else; none is all."""
    # An alert may get worse than what is wanted, and its end comes under its last severity.
    lowest = min((RANK[s] for s in subscription.severities if s in RANK), default=0)
    wanted = {name for name, rank in RANK.items() if rank >= lowest} if lowest and subscription.severities else set()
    severities, nodes = sorted(wanted), sorted(set(subscription.nodes))
    if not (severities or nodes) or max(1, len(severities)) * max(1, len(nodes)) > MOST_FILTERS:
        return []
    pairs = [(severity, node) for severity in severities or [""] for node in nodes or [""]]
    try:
        return [subjects.alerts_matching(severity, node) for severity, node in pairs]
    except InvalidInputError:
        # A name that no subject can have matches nothing, and must not keep the others from being told.
        return []


class Intake:
    """Pulls messages and wakes whoever waits for them."""

    def __init__(self, nc: Client, js: JetStreamContext, subscription: Subscription, arrived: asyncio.Event) -> None:
        self._js = js
        self._config = durable(
            durable_name(subscription),
            *stream_filters(subscription),
            ack_wait_s=60.0,
            max_ack_pending=256,
            deliver_policy=DeliverPolicy.BY_START_TIME,
            opt_start_time=subscription.created_at.isoformat(),
        )
        self._puller = Puller(nc, "ALERTS", durable_name(subscription), arrived, expires_s=PULL_S)

    async def start(self) -> None:
        """Make the consumer, however long it takes, and open the inbox."""
        await self._make(self._config)
        await self._puller.start()

    async def ask(self) -> None:
        """Have requests standing; make a consumer again that is gone."""
        try:
            await self._puller.ask(AT_ONCE)
        except (nats.errors.Error, OSError) as error:
            log.info("not asked", extra={"durable": self._puller.durable, "error": type(error).__name__})
            await asyncio.sleep(PAUSE_S)
        if self._puller.missing:
            # The server may still be removing the files of the one before, and those of the new one with them.
            await asyncio.sleep(PAUSE_S)
            await self._make(self._config)

    def taken(self) -> list[Msg]:
        """What has arrived."""
        ready = self._puller.ready
        return [ready.popleft() for _ in range(min(AT_ONCE, len(ready)))]

    async def stop(self) -> None:
        """Give back what was not taken."""
        for message in await self._puller.stop():
            await message.nak()

    async def _make(self, config: ConsumerConfig) -> None:
        while True:
            beat()
            try:
                await ensure_consumer(self._js, "ALERTS", config)
            except (APIError, nats.errors.Error, OSError) as error:
                log.warning("consumer not made yet", extra={"durable": config.durable_name, "error": str(error)})
                if _FILES_GONE in str(error):
                    await self._delete(config)
                await asyncio.sleep(1.0)
            else:
                return

    async def _delete(self, config: ConsumerConfig) -> None:
        """Remove a consumer whose files the server has lost: it can neither be used nor updated."""
        with suppress(APIError, nats.errors.Error, OSError):
            await self._js.delete_consumer("ALERTS", config.durable_name or "")

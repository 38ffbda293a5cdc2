"""Read the alerts of one subscription from the stream, with its own durable consumer."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import replace

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, DeliverPolicy
from nats.js.errors import APIError, NotFoundError

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.errors import InvalidInputError
from accelerator_autopilot.contracts.messages.notifications import Subscription
from accelerator_autopilot.contracts.severity_ranks import SEVERITY_RANK
from accelerator_autopilot.contracts.streams import durable
from accelerator_autopilot.notifier.domain.subscription_ledger import StreamPosition
from accelerator_autopilot.runtime.pull_subscription import PullSubscription
from accelerator_autopilot.runtime.supervision import beat
from accelerator_autopilot.transport.clock import utc_now
from accelerator_autopilot.transport.stream_setup import ensure_consumer

log = logging.getLogger(__name__)

AT_ONCE = 64
PULL_S = 30.0  # a thousand subscriptions that poll every second or two would keep a core busy
PAUSE_S = 0.5
MAX_FILTERS = 100
_FILES_GONE = "no such file or directory"


def durable_name(subscription_id: str) -> str:
    """Return the durable name of a subscription's consumer."""
    return f"notifier-{subscription_id}"


def stream_filters(subscription: Subscription) -> list[str]:
    """Return subjects that cover a subscription's filters, so that the server sends little else; none means all."""
    # An alert may escalate past the filter, and it is resolved under its last severity.
    lowest = min((SEVERITY_RANK[s] for s in subscription.severities if s in SEVERITY_RANK), default=0)
    wanted: set[str] = set()
    if lowest and subscription.severities:
        wanted = {name for name, rank in SEVERITY_RANK.items() if rank >= lowest}
    severities, nodes = sorted(wanted), sorted(set(subscription.nodes))
    if not (severities or nodes) or max(1, len(severities)) * max(1, len(nodes)) > MAX_FILTERS:
        return []
    pairs = [(severity, node) for severity in severities or [""] for node in nodes or [""]]
    try:
        return [subjects.alerts_matching(severity, node) for severity, node in pairs]
    except InvalidInputError:
        # A name that no subject can contain matches nothing, and must not disable the other filters.
        return []


class AlertConsumer:
    """Pulls messages and wakes waiting tasks. `place` is the current position.

    A consumer that was lost is recreated from there: what was delivered once is not delivered again.
    """

    def __init__(
        self,
        nc: Client,
        js: JetStreamContext,
        subscription: Subscription,
        arrived: asyncio.Event,
        place: StreamPosition | None,
    ) -> None:
        self._js, self._subscription = js, subscription
        self.place = place or StreamPosition()
        self._unsettled: set[int] = set()
        self._seen = self.place.sequence
        self._puller = PullSubscription(nc, "ALERTS", durable_name(subscription.id), arrived, expires_s=PULL_S)

    async def start(self) -> bool:
        """Create the consumer, retrying as needed, and open the inbox; True when the stream was recreated."""
        anew = await self._make()
        await self._puller.start()
        return anew

    async def ask(self) -> bool:
        """Keep pull requests open, and recreate a lost consumer; True when the stream was recreated."""
        try:
            await self._puller.ask(AT_ONCE)
        except (nats.errors.Error, OSError) as error:
            log.info("pull request failed", extra={"durable": self._puller.durable, "error": type(error).__name__})
            await asyncio.sleep(PAUSE_S)
        if not self._puller.missing:
            return False
        # The server may still be deleting the previous consumer's files, and the new one's with them.
        await asyncio.sleep(PAUSE_S)
        return await self._make()

    def taken(self) -> list[Msg]:
        """Return what has arrived."""
        ready = self._puller.ready
        messages = [ready.popleft() for _ in range(min(AT_ONCE, len(ready)))]
        sequences = [message.metadata.sequence.stream for message in messages]
        self._unsettled.update(sequences)
        self._seen = max([self._seen, *sequences])
        return messages

    async def settle(self, message: Msg) -> None:
        """Acknowledge a message whose content is stored."""
        with suppress(nats.errors.Error):
            await message.ack()
        self.passed(message)

    def passed(self, message: Msg) -> None:
        """Note that another component acknowledges the message."""
        self._unsettled.discard(message.metadata.sequence.stream)

    def come_to(self) -> StreamPosition | None:
        """Return the position up to which everything is acknowledged, when that has advanced."""
        sequence = min(self._unsettled) - 1 if self._unsettled else self._seen
        if sequence <= self.place.sequence:
            return None
        self.place = self.place.model_copy(update={"sequence": sequence})
        return self.place

    async def stop(self) -> None:
        """Give back what was not processed."""
        for message in await self._puller.stop():
            await message.nak()

    async def _make(self) -> bool:
        while True:
            beat()
            try:
                stream = await self._js.stream_info("ALERTS")
                anew = self._look_at(str(stream.created))
                await ensure_consumer(self._js, "ALERTS", await self._config())
            except (APIError, nats.errors.Error, OSError) as error:
                log.warning("consumer not created yet", extra={"durable": self._puller.durable, "error": str(error)})
                if _FILES_GONE in str(error):
                    await self._delete()
                await asyncio.sleep(1.0)
            else:
                return anew

    def _look_at(self, stream: str) -> bool:
        """Whether the stream was recreated; then its sequences start over."""
        anew = self.place.stream not in {"", stream}
        if anew:
            log.warning("the alert stream was recreated", extra={"subscription": self._subscription.id})
            self._unsettled.clear()
            self._seen = 0
        self.place = StreamPosition(stream=stream, sequence=0 if anew else self.place.sequence)
        return anew

    async def _config(self) -> ConsumerConfig:
        """Return the consumer's configuration; its start cannot be changed later."""
        wanted = durable(
            durable_name(self._subscription.id),
            *stream_filters(self._subscription),
            ack_wait_s=60.0,
            max_ack_pending=256,
        )
        try:
            info = await self._js.consumer_info("ALERTS", self._puller.durable)
        except NotFoundError:
            if self.place.sequence:
                begin = {"deliver_policy": DeliverPolicy.BY_START_SEQUENCE, "opt_start_seq": self.place.sequence + 1}
            else:
                # A clock that was ahead then must not delay it by that much.
                created = min(self._subscription.created_at, utc_now())
                begin = {"deliver_policy": DeliverPolicy.BY_START_TIME, "opt_start_time": created}
            return replace(wanted, **begin)  # type: ignore[arg-type]
        known = info.config
        settled = info.ack_floor.stream_seq if info.ack_floor else 0
        self.place = self.place.model_copy(update={"sequence": max(self.place.sequence, settled)})
        self._seen = max(self._seen, self.place.sequence)
        return replace(
            wanted,
            deliver_policy=known.deliver_policy,
            opt_start_seq=known.opt_start_seq,
            opt_start_time=known.opt_start_time,
        )

    async def _delete(self) -> None:
        """Delete a consumer whose files the server has lost: it can be neither used nor updated."""
        with suppress(APIError, nats.errors.Error, OSError):
            await self._js.delete_consumer("ALERTS", self._puller.durable)

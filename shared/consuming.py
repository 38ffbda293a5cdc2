"""How messages are taken from streams: when to retry, when to give up, and consumers kept alive."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import nats.errors
from fast_depends.exceptions import ValidationError as ArgumentError
from faststream import BaseMiddleware
from faststream.exceptions import IgnoredException, NackMessage, RejectMessage
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig
from nats.js.errors import APIError, NotFoundError
from prometheus_client import CollectorRegistry, Counter, Gauge
from pydantic import ValidationError

from shared import streams
from shared.errors import AutopilotError
from shared.health import HealthState
from shared.observability import bounded_subject

log = logging.getLogger(__name__)

BACKOFF_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
WATCH_PERIOD_S = 1.0
# Requests to the server that a fleet of watchdogs makes add up.
WATCH_EACH_S = 0.05


def backoff_s(delivered: int) -> float:
    """How long to wait before delivery number `delivered + 1`."""
    return BACKOFF_S[min(max(delivered, 1), len(BACKOFF_S)) - 1]


class RetryMiddleware:
    """Broker middleware: malformed messages are counted and dropped, failures tried again later."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._rejected = Counter(
            "autopilot_messages_rejected",
            "messages that no retry can help",
            ["subject", "error"],
            registry=registry,
        )

    def __call__(self, msg: Any, /, *, context: Any) -> _Retry:
        """Wrap one message."""
        return _Retry(msg, context=context, rejected=self._rejected)


class _Retry(BaseMiddleware[Any, Any]):
    def __init__(self, msg: Any, /, *, context: Any, rejected: Counter) -> None:
        super().__init__(msg, context=context)
        self._rejected = rejected

    async def consume_scope(self, call_next: Callable[[Any], Awaitable[Any]], msg: Any) -> Any:
        """Run the handler; turn what it raises into a later retry or a rejection."""
        try:
            return await call_next(msg)
        except (IgnoredException, asyncio.CancelledError):
            raise
        except Exception as error:
            subject = getattr(msg.raw_message, "subject", "kv")
            hopeless = isinstance(error, ArgumentError | ValidationError | UnicodeError | ValueError | TypeError)
            if hopeless or (isinstance(error, AutopilotError) and not error.retryable):
                self._rejected.labels(bounded_subject(subject), type(error).__name__).inc()
                log.warning("message rejected", extra={"subject": subject, "error": type(error).__name__})
                raise RejectMessage from error
            log.exception("handler failed", extra={"subject": subject})
            raise NackMessage(delay=backoff_s(_delivered(msg.raw_message))) from error


def _delivered(raw: Any) -> int:
    try:
        return int(raw.metadata.num_delivered)
    except (nats.errors.Error, AttributeError):
        return 1


@dataclass(frozen=True)
class Watched:
    """A durable consumer that must exist."""

    stream: str
    config: ConsumerConfig


class ConsumerWatchdog:
    """Asks the server for each durable every second, makes a deleted one again and tells the lag."""

    def __init__(
        self,
        js: JetStreamContext,
        watched: Sequence[Watched],
        health: HealthState,
        registry: CollectorRegistry,
        replicas: int = 1,
    ) -> None:
        self._js, self._health, self._replicas = js, health, replicas
        self._watched = list(watched)
        labels = ["stream", "durable"]
        self._pending = Gauge("autopilot_consumer_pending", "not delivered yet", labels, registry=registry)
        self._unacked = Gauge("autopilot_consumer_ack_pending", "delivered, unacknowledged", labels, registry=registry)
        self._recreated = Counter("autopilot_consumer_recreated", "made again", labels, registry=registry)

    async def create_all(self) -> None:
        """Create or update every durable."""
        for watched in self._watched:
            await streams.ensure_consumer(self._js, watched.stream, watched.config)

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            for watched in self._watched:
                await self._check(watched)
            await asyncio.sleep(max(WATCH_PERIOD_S, WATCH_EACH_S * len(self._watched)))

    async def _check(self, watched: Watched) -> None:
        durable = watched.config.durable_name or ""
        name = f"consumer {watched.stream}/{durable}"
        try:
            info = await self._js.consumer_info(watched.stream, durable, timeout=3.0)
        except NotFoundError:
            self._health.report(name, ok=False, reason="deleted, making it again")
            await self._recreate(watched, durable)
        except (APIError, nats.errors.Error, OSError) as error:
            self._health.report(name, ok=False, reason=f"no answer: {type(error).__name__}")
        else:
            self._pending.labels(watched.stream, durable).set(info.num_pending or 0)
            self._unacked.labels(watched.stream, durable).set(info.num_ack_pending or 0)
            self._health.report(name, ok=True, max_age_s=10.0)

    async def _recreate(self, watched: Watched, durable: str) -> None:
        try:
            await streams.ensure(self._js, self._replicas, deadline_s=5.0)
            await streams.ensure_consumer(self._js, watched.stream, watched.config)
        except (APIError, AutopilotError, nats.errors.Error, OSError) as error:
            log.warning("consumer not made again yet", extra={"durable": durable, "error": str(error)})
        else:
            self._recreated.labels(watched.stream, durable).inc()
            log.warning("consumer was deleted and made again", extra={"durable": durable})


async def pull_batches(
    js: JetStreamContext, stream: str, durable: str, *, batch: int, wait_s: float = 2.0
) -> AsyncIterator[list[Msg]]:
    """Yield batches of an existing durable for ever, riding out outages; the caller acknowledges."""
    subscription = None
    try:
        while True:
            try:
                if subscription is None:
                    subscription = await js.pull_subscribe_bind(durable, stream=stream)
                messages = await subscription.fetch(batch, timeout=wait_s)
            except TimeoutError:
                continue
            except (APIError, nats.errors.Error, OSError) as error:
                log.info("fetch failed", extra={"durable": durable, "error": type(error).__name__})
                await asyncio.sleep(0.5)
                continue
            if messages:
                yield messages
    finally:
        # Draining a connection waits for pull subscriptions that are still open.
        if subscription is not None:
            with suppress(nats.errors.Error):
                await subscription.unsubscribe()

"""Consume messages from streams: handlers with poison-message handling, and consumers that are kept alive."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import nats.errors
from fast_depends.exceptions import ValidationError as ArgumentError
from faststream import BaseMiddleware
from faststream.exceptions import AckMessage, HandlerException, IgnoredException, NackMessage, RejectMessage
from faststream.nats import JStream, NatsBroker, PullSub
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, ConsumerInfo
from nats.js.errors import APIError, NotFoundError
from nats.js.kv import KeyValue
from prometheus_client import CollectorRegistry, Counter, Gauge
from pydantic import ValidationError

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.errors import AutopilotError, InvalidInputError
from accelerator_autopilot.contracts.message_addressing import check_address, key_subject
from accelerator_autopilot.runtime.health import HealthState
from accelerator_autopilot.runtime.observability import bounded_subject
from accelerator_autopilot.runtime.poison_messages import BUS_ERRORS, PoisonRule, backoff_s, deliveries
from accelerator_autopilot.runtime.stalled_consumers import Progress, Subscriptions
from accelerator_autopilot.runtime.supervision import beat
from accelerator_autopilot.transport import stream_setup

log = logging.getLogger(__name__)

T = TypeVar("T")

Handler = Callable[[Any], Awaitable[None]]

WATCH_PERIOD_S = 1.0
# An idle durable is checked less often; readiness considers an answer valid for 10 s.
IDLE_PERIOD_S = 4.0
IDLE_AFTER_CHECKS = 10
# Requests from a fleet of watchdogs add up on the server.
WATCH_EACH_S = 0.05
# A deleted bucket is noticed by whoever uses it, and nobody else would recreate it before the next start.
COUNT_INTERVAL_S = 10.0
# A pool has about fifty durables: checked one by one over a slow link, answers would expire.
WATCH_AT_ONCE = 8
DISCONNECTED_S = 0.1
_MALFORMED = (ArgumentError, json.JSONDecodeError, UnicodeDecodeError, RecursionError)


class RetryMiddleware:
    """Broker middleware: handler failures follow the rule of `accelerator_autopilot.runtime.poison_messages`."""

    def __init__(self, rule: PoisonRule) -> None:
        self._rule = rule

    def __call__(self, msg: Any, /, *, context: Any) -> _Retry:
        """Wrap one message."""
        return _Retry(msg, context=context, rule=self._rule)


class _Retry(BaseMiddleware[Any, Any]):
    def __init__(self, msg: Any, /, *, context: Any, rule: PoisonRule) -> None:
        super().__init__(msg, context=context)
        self._rule = rule

    async def consume_scope(self, call_next: Callable[[Any], Awaitable[Any]], msg: Any) -> Any:
        """Run the handler; an exception leads to another attempt later, or to the end of the message."""
        raw = msg.raw_message
        try:
            await _check(raw, msg)
            return await call_next(msg)
        except asyncio.CancelledError:
            await give_back([raw])
            raise
        except (IgnoredException, HandlerException):
            raise
        except Exception as error:
            if isinstance(raw, KeyValue.Entry):
                # The body of a removed key is empty; handlers that need it take the entry itself.
                if raw.operation is None:
                    self._rule.drop(f"kv {raw.bucket}", error)
                raise RejectMessage from error
            await _answer(raw, error)
            # What does not match a handler's arguments is not a message of its kind.
            hopeless = isinstance(error, _MALFORMED)
            verdict = await self._rule.judge(raw, _consumer(raw), error, hopeless=hopeless, executor=True)
            if verdict == "again":
                raise NackMessage(delay=backoff_s(deliveries(raw))) from error
            raise AckMessage from error


async def _answer(raw: Any, error: Exception) -> None:
    """Reply at once that there is no answer; the replies of all requests have the same form."""
    if not (raw.reply and subjects.is_request(raw.subject)):
        return
    named = f"{error.field}: {error.rule}" if isinstance(error, InvalidInputError) else type(error).__name__
    why = f"not executed: {named}"
    if isinstance(error, (*_MALFORMED, ValidationError)):
        why = "the request is malformed: see the message's schema"
    with suppress(*BUS_ERRORS):
        await raw.respond(json.dumps({"ok": False, "error": why, "detail": why}).encode())


async def give_back(messages: Iterable[Msg]) -> None:
    """Return unprocessed messages right away, instead of after their acknowledgement timeout."""
    for message in messages:
        if deliveries(message) and not message._ackd:  # noqa: SLF001  it has no other way to ask
            with suppress(*BUS_ERRORS):
                await message.nak()


async def _check(raw: Any, msg: Any) -> None:
    """Check that a message with fields matches its subject or key."""
    body = await msg.decode()
    if isinstance(body, dict):
        key = key_subject(raw.bucket, raw.key) if isinstance(raw, KeyValue.Entry) else str(raw.subject)
        check_address(key, body)


def _consumer(raw: Any) -> str:
    """Return the durable's name, or the start of the subject where no stream delivers."""
    return str(raw.metadata.consumer) if deliveries(raw) else bounded_subject(raw.subject)


@dataclass(frozen=True)
class Watched:
    """A durable consumer that must exist.

    `may_wait` means that messages may rightly wait there: jobs for which no worker is free.
    """

    stream: str
    config: ConsumerConfig
    may_wait: bool = False


def consume(broker: NatsBroker, stream: str, subject: str, config: ConsumerConfig, handler: Handler) -> Watched:
    """Let a handler process the messages of a durable, one at a time; returns what to watch."""
    broker.subscriber(
        subject,
        stream=JStream(stream, declare=False),
        durable=config.durable_name,
        config=config,
        pull_sub=PullSub(batch_size=1, timeout=10),
        no_reply=True,
    )(handler)
    return Watched(stream, config)


class ConsumerWatchdog:
    """Checks each durable every second, or every four when idle, and reports its lag.

    A deleted durable is recreated, and a stalled one is healed.
    """

    def __init__(
        self,
        js: JetStreamContext,
        watched: Sequence[Watched],
        health: HealthState,
        registry: CollectorRegistry,
        replicas: int = 1,
        subscriptions: Subscriptions | None = None,
    ) -> None:
        self._js, self._health, self._replicas = js, health, replicas
        self._watched, self._subscriptions = list(watched), subscriptions
        self._streams, self._counted_s = 0, float("-inf")
        self._progress = {(w.stream, w.config.durable_name): Progress() for w in watched}
        self._quiet_looks: dict[str, int] = {}
        self._next_look_s: dict[str, float] = {}
        labels = ["stream", "durable"]
        self._pending = Gauge("autopilot_consumer_pending", "messages not yet delivered", labels, registry=registry)
        self._unacked = Gauge(
            "autopilot_consumer_ack_pending", "messages delivered but not acknowledged", labels, registry=registry
        )
        self._stalled = Gauge(
            "autopilot_consumer_stalled_seconds",
            "time for which messages have waited and none was fetched",
            labels,
            registry=registry,
        )
        self._recreated = Counter("autopilot_consumer_recreated", "consumers recreated", labels, registry=registry)

    async def create_all(self) -> None:
        """Create or update every durable."""
        for watched in self._watched:
            await stream_setup.ensure_consumer(self._js, watched.stream, watched.config)

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            beat()
            if self._subscriptions is not None:
                await self._subscriptions.restart_ended()
            await self._count_streams()
            await some_at_once(self._check, self._due(), WATCH_AT_ONCE)
            await asyncio.sleep(max(WATCH_PERIOD_S, WATCH_EACH_S * len(self._watched)))

    def _due(self) -> list[Watched]:
        """Return those that are due for a check."""
        now = asyncio.get_running_loop().time()
        return [w for w in self._watched if now >= self._next_look_s.get(_name(w), 0.0)]

    def _rest(self, watched: Watched, *, quiet: bool) -> None:
        """Check a durable less often after it was idle for several checks."""
        name = _name(watched)
        self._quiet_looks[name] = self._quiet_looks.get(name, 0) + 1 if quiet else 0
        if self._quiet_looks[name] >= IDLE_AFTER_CHECKS:
            self._next_look_s[name] = asyncio.get_running_loop().time() + IDLE_PERIOD_S - WATCH_PERIOD_S / 2
        else:
            self._next_look_s.pop(name, None)

    async def _count_streams(self) -> None:
        """Recreate streams and buckets when there are fewer than before."""
        now = asyncio.get_running_loop().time()
        if now - self._counted_s < COUNT_INTERVAL_S:
            return
        self._counted_s = now
        try:
            count = (await self._js.account_info()).streams
            if count < self._streams:
                log.warning("streams or buckets are missing; recreating them", extra={"before": self._streams})
                await stream_setup.ensure(self._js, self._replicas, deadline_s=5.0)
                count = (await self._js.account_info()).streams
        except (APIError, AutopilotError, nats.errors.Error, OSError) as error:
            log.info("streams not checked", extra={"error": type(error).__name__})
        else:
            self._streams = count

    async def _check(self, watched: Watched) -> None:
        durable = watched.config.durable_name or ""
        name = _name(watched)
        quiet = False
        try:
            info = await self._js.consumer_info(watched.stream, durable, timeout=3.0)
        except NotFoundError:
            self._health.report(name, ok=False, reason="deleted; recreating it")
            await self._recreate(watched, durable)
        except (APIError, nats.errors.Error, OSError) as error:
            self._health.report(name, ok=False, reason=f"no answer: {type(error).__name__}")
        else:
            self._pending.labels(watched.stream, durable).set(info.num_pending or 0)
            self._unacked.labels(watched.stream, durable).set(info.num_ack_pending or 0)
            await self._judge(watched, durable, info)
            moved = self._progress[watched.stream, watched.config.durable_name].moved
            quiet = not (moved or info.num_pending or info.num_ack_pending)
        self._rest(watched, quiet=quiet)

    async def _judge(self, watched: Watched, durable: str, info: ConsumerInfo) -> None:
        now = asyncio.get_running_loop().time()
        progress = self._progress[watched.stream, watched.config.durable_name]
        still_s = 0.0 if watched.may_wait else progress.check(info, now)
        self._stalled.labels(watched.stream, durable).set(still_s)
        name = _name(watched)
        if not still_s:
            self._health.report(name, ok=True, max_age_s=10.0)
            if self._subscriptions is not None and progress.moved:
                self._subscriptions.moves(durable)
            return
        waiting = (info.num_pending or 0) + (info.num_ack_pending or 0)
        self._health.report(name, ok=False, reason=f"took nothing for {still_s:.0f} s, {waiting} messages wait")
        if self._subscriptions is not None and await self._subscriptions.heal(durable, still_s):
            progress.reset(asyncio.get_running_loop().time())

    async def _recreate(self, watched: Watched, durable: str) -> None:
        try:
            await stream_setup.ensure(self._js, self._replicas, deadline_s=5.0)
            await stream_setup.ensure_consumer(self._js, watched.stream, watched.config)
        except (APIError, AutopilotError, nats.errors.Error, OSError) as error:
            log.warning("consumer not recreated yet", extra={"durable": durable, "error": str(error)})
        else:
            self._recreated.labels(watched.stream, durable).inc()
            log.warning("deleted consumer recreated", extra={"durable": durable})


def _name(watched: Watched) -> str:
    """Return the name of its readiness condition."""
    return f"consumer {watched.stream}/{watched.config.durable_name or ''}"


async def some_at_once(work: Callable[[T], Awaitable[None]], items: Sequence[T], most: int = 32) -> None:
    """Process each item, some concurrently: one by one, a slow link would set the pace. Raises what the work raises."""
    for first in range(0, len(items), most):
        beat()
        await asyncio.gather(*map(work, items[first : first + most]))


async def pull_batches(
    js: JetStreamContext, stream: str, durable: str, *, batch: int, wait_s: float = 2.0
) -> AsyncGenerator[list[Msg], None]:
    """Yield batches of an existing durable forever, surviving outages; the caller acknowledges.

    Close it with `contextlib.aclosing`: then the rest of the last batch is given back.
    """
    subscription: JetStreamContext.PullSubscription | None = None
    messages: list[Msg] = []
    nc = js._nc  # noqa: SLF001  the context has no other name for it
    try:
        while True:
            beat()
            if not nc.is_connected:
                # The client would send requests of now later, all at once.
                await asyncio.sleep(DISCONNECTED_S)
                continue
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
        await give_back(messages)
        # Draining a connection waits for open pull subscriptions.
        if subscription is not None:
            with suppress(nats.errors.Error):
                await subscription.unsubscribe()
            await give_back(left_over(subscription))


def left_over(subscription: JetStreamContext.PullSubscription) -> list[Msg]:
    """Return messages that arrived but were never fetched."""
    queue, found = subscription._sub._pending_queue, []  # noqa: SLF001  the library drops them
    while not queue.empty():
        found.append(queue.get_nowait())
    return found

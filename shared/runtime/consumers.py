"""How messages are taken from streams: handlers under the poison rule, and consumers kept alive."""

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
from accelerator_autopilot.contracts.subject_checks import check_address, key_subject
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
# A durable where nothing happens is asked for less often; readiness takes an answer for good for 10 s.
REST_PERIOD_S = 4.0
RESTS_AFTER_LOOKS = 10
# Requests to the server that a fleet of watchdogs makes add up.
WATCH_EACH_S = 0.05
# A bucket that is gone is missed by whoever reads or writes it, and nobody else would make it before the next start.
COUNTED_EVERY_S = 10.0
# A pool has some fifty durables: one after the other over a slow link would take longer than an answer is good for.
WATCH_AT_ONCE = 8
DISCONNECTED_S = 0.1
_MALFORMED = (ArgumentError, json.JSONDecodeError, UnicodeDecodeError, RecursionError)


class RetryMiddleware:
    """Broker middleware: every handler's failures go by the rule of `accelerator_autopilot.runtime.poison_messages`."""

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
        """Run the handler; what it raises becomes another attempt later, or the end of the message."""
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
                # The body of a removed key is empty; handlers that need to know take the entry itself.
                if raw.operation is None:
                    self._rule.drop(f"kv {raw.bucket}", error)
                raise RejectMessage from error
            await _answer(raw, error)
            # What does not fit a handler's arguments is no message of its kind.
            hopeless = isinstance(error, _MALFORMED)
            verdict = await self._rule.judge(raw, _consumer(raw), error, hopeless=hopeless, executor=True)
            if verdict == "again":
                raise NackMessage(delay=backoff_s(deliveries(raw))) from error
            raise AckMessage from error


async def _answer(raw: Any, error: Exception) -> None:
    """Whoever asked is told at once that there is no answer; the replies of all requests read the same body."""
    if not (raw.reply and subjects.is_request(raw.subject)):
        return
    named = f"{error.field}: {error.rule}" if isinstance(error, InvalidInputError) else type(error).__name__
    why = f"not carried out: {named}"
    if isinstance(error, (*_MALFORMED, ValidationError)):
        why = "the request is malformed: see the message's schema"
    with suppress(*BUS_ERRORS):
        await raw.respond(json.dumps({"ok": False, "error": why, "detail": why}).encode())


async def give_back(messages: Iterable[Msg]) -> None:
    """Let others have at once what was taken from a stream and is not dealt with, and not when it is overdue."""
    for message in messages:
        if deliveries(message) and not message._ackd:  # noqa: SLF001  it has no other way to ask
            with suppress(*BUS_ERRORS):
                await message.nak()


async def _check(raw: Any, msg: Any) -> None:
    """That a message with fields is about what its subject or key says."""
    body = await msg.decode()
    if isinstance(body, dict):
        key = key_subject(raw.bucket, raw.key) if isinstance(raw, KeyValue.Entry) else str(raw.subject)
        check_address(key, body)


def _consumer(raw: Any) -> str:
    """The durable's name, or the beginning of the subject where no stream delivers."""
    return str(raw.metadata.consumer) if deliveries(raw) else bounded_subject(raw.subject)


@dataclass(frozen=True)
class Watched:
    """A durable consumer that must exist.

    `may_wait` says that messages may rightly lie there: jobs for which no worker is free.
    """

    stream: str
    config: ConsumerConfig
    may_wait: bool = False


def consume(broker: NatsBroker, stream: str, subject: str, config: ConsumerConfig, handler: Handler) -> Watched:
    """Have a handler take the messages of a durable, one at a time; returns what is to be watched."""
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
    """Asks the server for each durable every second, or four where nothing happens, and tells the lag.

    A durable that was deleted is made again, and one that does not move is healed.
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
                await self._subscriptions.revive_dead()
            await self._count_streams()
            await some_at_once(self._check, self._due(), WATCH_AT_ONCE)
            await asyncio.sleep(max(WATCH_PERIOD_S, WATCH_EACH_S * len(self._watched)))

    def _due(self) -> list[Watched]:
        """Those to be asked for now."""
        now = asyncio.get_running_loop().time()
        return [w for w in self._watched if now >= self._next_look_s.get(_name(w), 0.0)]

    def _rest(self, watched: Watched, *, quiet: bool) -> None:
        """Ask less often for a durable where nothing has happened for some looks."""
        name = _name(watched)
        self._quiet_looks[name] = self._quiet_looks.get(name, 0) + 1 if quiet else 0
        if self._quiet_looks[name] >= RESTS_AFTER_LOOKS:
            self._next_look_s[name] = asyncio.get_running_loop().time() + REST_PERIOD_S - WATCH_PERIOD_S / 2
        else:
            self._next_look_s.pop(name, None)

    async def _count_streams(self) -> None:
        """Make streams and buckets again when there are fewer than before."""
        now = asyncio.get_running_loop().time()
        if now - self._counted_s < COUNTED_EVERY_S:
            return
        self._counted_s = now
        try:
            count = (await self._js.account_info()).streams
            if count < self._streams:
                log.warning("streams or buckets are gone, making them again", extra={"before": self._streams})
                await stream_setup.ensure(self._js, self._replicas, deadline_s=5.0)
                count = (await self._js.account_info()).streams
        except (APIError, AutopilotError, nats.errors.Error, OSError) as error:
            log.info("streams not counted", extra={"error": type(error).__name__})
        else:
            self._streams = count

    async def _check(self, watched: Watched) -> None:
        durable = watched.config.durable_name or ""
        name = _name(watched)
        quiet = False
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
            await self._judge(watched, durable, info)
            moved = self._progress[watched.stream, watched.config.durable_name].moved
            quiet = not (moved or info.num_pending or info.num_ack_pending)
        self._rest(watched, quiet=quiet)

    async def _judge(self, watched: Watched, durable: str, info: ConsumerInfo) -> None:
        now = asyncio.get_running_loop().time()
        progress = self._progress[watched.stream, watched.config.durable_name]
        still_s = 0.0 if watched.may_wait else progress.look(info, now)
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
            progress.begin_anew(asyncio.get_running_loop().time())

    async def _recreate(self, watched: Watched, durable: str) -> None:
        try:
            await stream_setup.ensure(self._js, self._replicas, deadline_s=5.0)
            await stream_setup.ensure_consumer(self._js, watched.stream, watched.config)
        except (APIError, AutopilotError, nats.errors.Error, OSError) as error:
            log.warning("consumer not made again yet", extra={"durable": durable, "error": str(error)})
        else:
            self._recreated.labels(watched.stream, durable).inc()
            log.warning("consumer was deleted and made again", extra={"durable": durable})


def _name(watched: Watched) -> str:
    """Of its condition of readiness."""
    return f"consumer {watched.stream}/{watched.config.durable_name or ''}"


async def some_at_once(work: Callable[[T], Awaitable[None]], items: Sequence[T], most: int = 32) -> None:
    """Do it for each, some at a time: one after the other, a slow link sets the pace. Raises what the work does."""
    for first in range(0, len(items), most):
        beat()
        await asyncio.gather(*map(work, items[first : first + most]))


async def pull_batches(
    js: JetStreamContext, stream: str, durable: str, *, batch: int, wait_s: float = 2.0
) -> AsyncGenerator[list[Msg], None]:
    """Yield batches of an existing durable for ever, riding out outages; the caller acknowledges.

    To be closed, with `contextlib.aclosing`: what the last batch still holds is given back then.
    """
    subscription: JetStreamContext.PullSubscription | None = None
    messages: list[Msg] = []
    nc = js._nc  # noqa: SLF001  the context has no other name for it
    try:
        while True:
            beat()
            if not nc.is_connected:
                # Requests of now would be sent later, all of them at once.
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
        # Draining a connection waits for pull subscriptions that are still open.
        if subscription is not None:
            with suppress(nats.errors.Error):
                await subscription.unsubscribe()
            await give_back(left_over(subscription))


def left_over(subscription: JetStreamContext.PullSubscription) -> list[Msg]:
    """What came and was never fetched."""
    queue, found = subscription._sub._pending_queue, []  # noqa: SLF001  the library drops them
    while not queue.empty():
        found.append(queue.get_nowait())
    return found

"""One rule for messages that cannot be handled: counted, tried three times, then quarantined with their error.

It applies to every consumer: FastStream's handlers (`runtime.consumers`), and every loop that pulls by itself, which
wraps its work on a message in `guard`. Failures caused by the bus or another dependency are retried forever.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Literal

import nats.errors
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.errors import APIError
from prometheus_client import CollectorRegistry, Counter

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.errors import AutopilotError, MalformedMessageError
from accelerator_autopilot.runtime.failure_description import where
from accelerator_autopilot.runtime.poison_letters import poison_letter, refusal

log = logging.getLogger(__name__)

ATTEMPTS = 3
# Processes that share a consumer each see part of the failures; past this number one more failure is enough.
MAX_DELIVERIES = 10
BACKOFF_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
BUS_ERRORS = (nats.errors.Error, APIError, OSError)
# For these errors the message itself is at fault, however healthy the bus is.
_NOT_THE_BUS = (nats.errors.MaxPayloadError, nats.errors.BadSubjectError, UnicodeError)
_REMEMBERED = 10_000
# A flood of invalid messages is counted one by one, but logged once a second.
_LOG_INTERVAL_S = 1.0

GiveUp = Callable[[Exception], Awaitable[None]]
Verdict = Literal["again", "done"]


def backoff_s(delivered: int) -> float:
    """Return how long to wait before delivery number `delivered + 1`."""
    return BACKOFF_S[min(max(delivered, 1), len(BACKOFF_S)) - 1]


def may_pass(error: BaseException) -> bool:
    """Whether an external cause is at fault, so that a retry may help."""
    if isinstance(error, AutopilotError):
        return error.retryable
    return isinstance(error, (*BUS_ERRORS, TimeoutError)) and not isinstance(error, _NOT_THE_BUS)


def deliveries(message: object) -> int:
    """Return how often a stream has delivered a message; 0 where no stream did."""
    try:
        return int(message.metadata.num_delivered)  # type: ignore[attr-defined]
    except (nats.errors.Error, AttributeError, ValueError, IndexError):
        return 0


class PoisonRule:
    """The rule for the consumers of one process; `js` provides a context when a message is quarantined."""

    def __init__(self, registry: CollectorRegistry, js: Callable[[], JetStreamContext]) -> None:
        self._js = js
        self._failures: OrderedDict[tuple[str, str, int], int] = OrderedDict()
        self._logged: dict[tuple[str, str], float] = {}
        self.total = 0
        self._seen = Counter(
            "autopilot_messages_poison", "messages whose handler failed", ["consumer", "error"], registry=registry
        )
        self._aside = Counter(
            "autopilot_messages_quarantined", "messages given up and moved to POISON", ["consumer"], registry=registry
        )

    @asynccontextmanager
    async def guard(self, message: Msg, consumer: str, give_up: GiveUp | None = None) -> AsyncIterator[None]:
        """Handle one message of a custom loop: every exception is settled by the rule, none escapes."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  whatever a handler raises is judged
            await self.settle(message, consumer, error, give_up=give_up)

    def callback(self, consumer: str, handle: Callable[[Msg], Awaitable[None]]) -> Callable[[Msg], Awaitable[None]]:
        """Return a callback for a core subscription: failures are counted and the message is dropped."""

        async def guarded(message: Msg) -> None:
            try:
                await handle(message)
            except Exception as error:  # noqa: BLE001  whatever a handler raises
                self.drop(consumer, error)

        return guarded

    async def settle(
        self,
        message: Msg,
        consumer: str,
        error: Exception,
        *,
        hopeless: bool = False,
        give_up: GiveUp | None = None,
    ) -> Verdict:
        """Handle a failure: retry after a delay, or give up.

        With `give_up`, that is called instead of publishing a letter to POISON, before the message is
        acknowledged.
        """
        verdict = await self.judge(message, consumer, error, hopeless=hopeless, give_up=give_up)
        delivered = deliveries(message)
        if not delivered:
            return verdict
        try:
            await (message.ack() if verdict == "done" else message.nak(delay=backoff_s(delivered)))
        except BUS_ERRORS as gone:
            log.info("not settled; it will be redelivered", extra={"consumer": consumer, "error": type(gone).__name__})
        return verdict

    async def judge(
        self,
        message: Msg,
        consumer: str,
        error: Exception,
        *,
        hopeless: bool = False,
        executor: bool = False,
        give_up: GiveUp | None = None,
    ) -> Verdict:
        """Return `again`, or `done` when the message was quarantined or no stream holds it.

        `hopeless` means that no retry can help. An `executor` of commands owes each an outcome.
        """
        delivered = deliveries(message)
        name = type(error).__name__
        fields = {"consumer": consumer, "subject": message.subject[:500], "error": name, "delivered": delivered}
        if may_pass(error):
            log.info("tried again later" if delivered else "message dropped", extra=fields)
            return "again" if delivered else "done"
        self._count(consumer, error, fields)
        if not delivered:
            return "done"
        failures = self._failures_of(message, consumer)
        hopeless = hopeless or isinstance(error, MalformedMessageError)
        # A job is also redelivered for reasons that are not failures, and whoever gives it up notifies its
        # owner.
        shared_out = give_up is None and delivered >= MAX_DELIVERIES
        if not hopeless and failures < ATTEMPTS and not shared_out:
            return "again"
        try:
            await self._end(message, consumer, error, executor=executor, give_up=give_up)
        except (AutopilotError, *BUS_ERRORS) as gone:
            log.warning("not quarantined yet", extra=fields | {"reason": type(gone).__name__})
            return "again"
        self._aside.labels(consumer).inc()
        log.error("message quarantined", extra=fields)
        return "done"

    def drop(self, consumer: str, error: Exception) -> None:
        """Count a message that no stream would redeliver."""
        self._count(consumer, error, {"consumer": consumer, "error": type(error).__name__})

    def _count(self, consumer: str, error: Exception, fields: dict[str, object]) -> None:
        self.total += 1
        self._seen.labels(consumer, type(error).__name__).inc()
        now = time.monotonic()
        kind = (consumer, type(error).__name__)
        if now - self._logged.get(kind, -_LOG_INTERVAL_S) >= _LOG_INTERVAL_S:
            self._logged[kind] = now
            log.warning("message failed", extra=fields | {"where": where(error)})

    def _failures_of(self, message: Msg, consumer: str) -> int:
        key = (consumer, message.metadata.stream, message.metadata.sequence.stream)
        failures = self._failures.pop(key, 0) + 1
        self._failures[key] = failures
        if len(self._failures) > _REMEMBERED:
            self._failures.popitem(last=False)
        return failures

    async def _end(
        self, message: Msg, consumer: str, error: Exception, *, executor: bool, give_up: GiveUp | None
    ) -> None:
        if give_up is not None:
            try:
                await give_up(error)
            except Exception as second:
                if may_pass(second):
                    raise
                # If its owner cannot be notified, it is kept like any other.
                self._count(f"{consumer} giving up", second, {"consumer": consumer, "subject": message.subject[:500]})
            else:
                return
        await self._put_aside(message, consumer, error, executor=executor)

    async def _put_aside(self, message: Msg, consumer: str, error: Exception, *, executor: bool) -> None:
        js = self._js()
        letter = poison_letter(message, consumer, error)
        async with asyncio.timeout(10):
            await js.publish(
                subjects.poison(letter.stream),
                letter.model_dump_json().encode(),
                headers={"Nats-Msg-Id": letter.id},
                stream="POISON",
            )
            outcome = refusal(message, consumer, error) if executor else None
            if outcome is not None:
                await js.publish(
                    subjects.outcome(outcome.command_id),
                    outcome.model_dump_json().encode(),
                    headers={"Nats-Msg-Id": outcome.id},
                    stream="OUTCOMES",
                )

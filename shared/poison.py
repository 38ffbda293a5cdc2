"""One rule for messages that cannot be handled: counted, tried three times, then put aside with their error.

It holds for every consumer: FastStream's handlers (`shared.consuming`), and every loop that pulls by itself, which
puts its work on a message under `guard`. What the bus or another dependency is to blame for is tried for ever.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Literal

import nats.errors
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.errors import APIError
from prometheus_client import CollectorRegistry, Counter
from pydantic import TypeAdapter, ValidationError

from shared import subjects
from shared.clock import utc_now
from shared.errors import AutopilotError, MalformedMessageError
from shared.ids import derived_id
from shared.messages.base import Name
from shared.messages.commands import COMMAND_KINDS, CommandOutcome
from shared.messages.poison import MOST_BODY_BYTES, PoisonMessage

log = logging.getLogger(__name__)

ATTEMPTS = 3
# Several processes that share a consumer see a part of the failures each; past this one failure more is enough.
MOST_DELIVERIES = 10
BACKOFF_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
BUS_ERRORS = (nats.errors.Error, APIError, OSError)
# Of these the message itself is to blame, however healthy the bus is.
_NOT_THE_BUS = (nats.errors.MaxPayloadError, nats.errors.BadSubjectError, UnicodeError)
_REMEMBERED = 10_000
# What an outcome can carry: an id with a NUL in it would make the refusal itself unsendable, for ever.
_NAME: TypeAdapter[str] = TypeAdapter(Name)

Verdict = Literal["again", "done"]


def backoff_s(delivered: int) -> float:
    """How long to wait before delivery number `delivered + 1`."""
    return BACKOFF_S[min(max(delivered, 1), len(BACKOFF_S)) - 1]


def may_pass(error: BaseException) -> bool:
    """Whether something outside is to blame, so that trying again may help."""
    if isinstance(error, AutopilotError):
        return error.retryable
    return isinstance(error, (*BUS_ERRORS, TimeoutError)) and not isinstance(error, _NOT_THE_BUS)


def deliveries(message: object) -> int:
    """How often a stream has delivered a message; 0 where no stream did."""
    try:
        return int(message.metadata.num_delivered)  # type: ignore[attr-defined]
    except (nats.errors.Error, AttributeError, ValueError, IndexError):
        return 0


def explain(error: BaseException) -> str:
    """What is wrong, without quoting the message: letters outlive what they are about."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    return str(error) if isinstance(error, AutopilotError) else ""


class PoisonRule:
    """The rule for the consumers of one process; `js` is asked for a context when there is something to put aside."""

    def __init__(self, registry: CollectorRegistry, js: Callable[[], JetStreamContext]) -> None:
        self._js = js
        self._failures: OrderedDict[tuple[str, str, int], int] = OrderedDict()
        self._seen = Counter(
            "autopilot_messages_poison", "messages that failed", ["consumer", "error"], registry=registry
        )
        self._aside = Counter(
            "autopilot_messages_put_aside", "messages given up, kept in POISON", ["consumer"], registry=registry
        )

    @asynccontextmanager
    async def guard(self, message: Msg, consumer: str) -> AsyncIterator[None]:
        """Work on one message of a loop of one's own: whatever is raised is settled by the rule, none comes out."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  whatever a handler raises is judged
            await self.settle(message, consumer, error)

    async def settle(self, message: Msg, consumer: str, error: BaseException, *, hopeless: bool = False) -> None:
        """Judge a failure and tell the stream: again after a pause, or not any more."""
        verdict = await self.judge(message, consumer, error, hopeless=hopeless)
        delivered = deliveries(message)
        if not delivered:
            return
        try:
            await (message.ack() if verdict == "done" else message.nak(delay=backoff_s(delivered)))
        except BUS_ERRORS as gone:
            log.info("not told, comes again by itself", extra={"consumer": consumer, "error": type(gone).__name__})

    async def judge(
        self, message: Msg, consumer: str, error: BaseException, *, hopeless: bool = False, executor: bool = False
    ) -> Verdict:
        """`again`, or `done` when the message was put aside or no stream holds it.

        `hopeless` is a message that no further attempt can help. An `executor` of commands owes each an outcome.
        """
        delivered = deliveries(message)
        name = type(error).__name__
        if may_pass(error):
            log.info("tried again later", extra={"consumer": consumer, "subject": message.subject, "error": name})
            return "again" if delivered else "done"
        self._seen.labels(consumer, name).inc()
        told = {"consumer": consumer, "subject": message.subject[:500], "error": name, "delivered": delivered}
        if not delivered:
            log.warning("message dropped", extra=told, exc_info=None if hopeless else error)
            return "done"
        failures = self._count(message, consumer)
        hopeless = hopeless or isinstance(error, MalformedMessageError)
        if not hopeless and failures < ATTEMPTS and delivered < MOST_DELIVERIES:
            log.warning("message failed", extra=told, exc_info=error)
            return "again"
        try:
            await self._put_aside(message, consumer, error, executor=executor)
        except BUS_ERRORS as gone:
            log.warning("not put aside yet", extra=told | {"reason": type(gone).__name__})
            return "again"
        self._aside.labels(consumer).inc()
        log.error("message put aside", extra=told)
        return "done"

    def drop(self, consumer: str, error: BaseException) -> None:
        """Count what no stream would deliver again."""
        self._seen.labels(consumer, type(error).__name__).inc()
        log.warning("message dropped", extra={"consumer": consumer, "error": type(error).__name__})

    def _count(self, message: Msg, consumer: str) -> int:
        key = (consumer, message.metadata.stream, message.metadata.sequence.stream)
        failures = self._failures.pop(key, 0) + 1
        self._failures[key] = failures
        if len(self._failures) > _REMEMBERED:
            self._failures.popitem(last=False)
        return failures

    async def _put_aside(self, message: Msg, consumer: str, error: BaseException, *, executor: bool) -> None:
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


def poison_letter(message: Msg, consumer: str, error: BaseException) -> PoisonMessage:
    """What is kept of a message of a stream; putting it aside again is the same letter."""
    metadata = message.metadata
    sequence = metadata.sequence.stream
    return PoisonMessage(
        id=derived_id("poison", consumer, metadata.stream, str(sequence)),
        consumer=consumer,
        stream=metadata.stream,
        sequence=sequence,
        subject=message.subject[:4096],
        headers={k[:200]: v[:2000] for k, v in list((message.headers or {}).items())[:50]},
        body_base64=base64.b64encode(message.data[:MOST_BODY_BYTES]).decode(),
        body_bytes=len(message.data),
        error=type(error).__name__,
        reason=explain(error),
        deliveries=metadata.num_delivered,
        at=utc_now(),
    )


def refusal(message: Msg, executor: str, error: BaseException) -> CommandOutcome | None:
    """The outcome of a command that could not be carried out for what it says; None for other messages."""
    prefix, *rest = message.subject.split(".")
    if prefix != "commands" or len(rest) < 2 or rest[0] not in COMMAND_KINDS:
        return None
    identity = f"seq-{message.metadata.sequence.stream}"
    try:
        command = COMMAND_KINDS[rest[0]].model_validate_json(message.data)
        subjects.outcome(command.id)
        identity = command.id
    except (ValidationError, ValueError):
        identity = _identity(message.data) or identity
    return CommandOutcome(
        id=derived_id("refused", identity, executor, str(message.metadata.sequence.stream)),
        command_id=identity,
        command=rest[0],
        target="/".join(subjects.untoken(token) for token in rest[1:]),
        status="refused",
        detail=f"{type(error).__name__}: {explain(error)}".removesuffix(": "),
        at=utc_now(),
        executor=executor[:200],
    )


def _identity(body: bytes) -> str | None:
    """The id of a command that is otherwise unreadable."""
    try:
        told = json.loads(body)
        identity: str = _NAME.validate_python(told.get("id") if isinstance(told, dict) else None)
        subjects.outcome(identity)
    except (ValueError, RecursionError):
        return None
    return identity

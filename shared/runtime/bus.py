"""What services do on the bus besides consuming: publish until confirmed, and keep small state in buckets."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TypeVar, cast

from nats.js import JetStreamContext
from nats.js.errors import KeyNotFoundError
from pydantic import BaseModel

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.errors import UnavailableError
from accelerator_autopilot.contracts.messages.commands import CommandOutcome, FleetPolicy
from accelerator_autopilot.transport import result_publishing
from accelerator_autopilot.transport.acked_publishing import AckedPublisher
from accelerator_autopilot.transport.policy_bucket import OBSERVE_ONLY, POLICY_BUCKET, POLICY_KEY, parse_policy
from accelerator_autopilot.transport.publish_retries import publish_patiently
from accelerator_autopilot.transport.unreadable_values import parse_value

if TYPE_CHECKING:
    from faststream.nats import NatsBroker

M = TypeVar("M", bound=BaseModel)
BUS_ERRORS = result_publishing.BUS_ERRORS
TIMEOUT_S = 5.0


class Bus:
    """JetStream through a service's broker, or directly. Every method raises UnavailableError while it is unreachable.

    `pipelined` is for publishing many messages concurrently: each costs less then.
    """

    def __init__(self, source: NatsBroker | JetStreamContext, *, pipelined: bool = False) -> None:
        self._source, self._pipelined = source, pipelined
        self._js: JetStreamContext | None = None
        self._publisher: AckedPublisher | None = None
        self._policy: tuple[bytes | None, FleetPolicy] = None, FleetPolicy()

    @property
    def js(self) -> JetStreamContext:
        """The context of the connected broker."""
        if self._js is None:
            self._js = _context(self._source)
        return self._js

    @property
    def _out(self) -> JetStreamContext:
        if not self._pipelined:
            return self.js
        if self._publisher is None:
            self._publisher = AckedPublisher(self.js._nc, timeout_s=TIMEOUT_S)  # noqa: SLF001  it has no other name
        return self._publisher

    async def publish(self, subject: str, body: BaseModel | bytes, message_id: str) -> None:
        """Publish, and wait until the stream stores it; messages with the same id are stored once."""
        data = body if isinstance(body, bytes) else body.model_dump_json().encode()
        try:
            await publish_patiently(self._out, subject, data, {"Nats-Msg-Id": message_id})
        except BUS_ERRORS as error:
            raise UnavailableError(f"{subject} was not confirmed: {type(error).__name__}: {error}") from error

    async def publish_outcome(self, outcome: CommandOutcome) -> None:
        """Publish the outcome of a command."""
        await self.publish(subjects.outcome(outcome.command_id), outcome, outcome.id)

    async def read(self, bucket: str, key: str, model: type[M]) -> M | None:
        """Return the value of a key; None when there is none that can be read."""
        value = await self._value(bucket, key)
        return None if value is None else parse_value(bucket, key, value, model)

    async def _value(self, bucket: str, key: str) -> bytes | None:
        try:
            entry = await (await self.js.key_value(bucket)).get(key)
        except KeyNotFoundError:
            return None
        except BUS_ERRORS as error:
            raise UnavailableError(f"{bucket}/{key} could not be read: {type(error).__name__}") from error
        return entry.value or b""

    async def write(self, bucket: str, key: str, value: BaseModel) -> None:
        """Set a key."""
        try:
            await (await self.js.key_value(bucket)).put(key, value.model_dump_json().encode())
        except BUS_ERRORS as error:
            raise UnavailableError(f"{bucket}/{key} could not be written: {type(error).__name__}") from error

    async def delete(self, bucket: str, key: str) -> None:
        """Remove a key."""
        try:
            await (await self.js.key_value(bucket)).delete(key)
        except KeyNotFoundError:
            return
        except BUS_ERRORS as error:
            raise UnavailableError(f"{bucket}/{key} could not be removed: {type(error).__name__}") from error

    async def policy(self) -> FleetPolicy:
        """Return the operator's policy; an unreadable one allows only observation."""
        value = await self._value(POLICY_BUCKET, POLICY_KEY)
        before, policy = self._policy
        if value is not None and value == before:
            # With a thousand pools, parsing it takes longer than comparing the bytes.
            return policy
        policy = parse_policy(value)
        if policy != OBSERVE_ONLY:
            self._policy = value, policy
        return policy


def _context(source: NatsBroker | JetStreamContext) -> JetStreamContext:
    """Import FastStream's context only where there is a broker; nothing else needs it."""
    if "faststream.nats" not in sys.modules:
        return cast("JetStreamContext", source)
    from faststream.nats import NatsBroker  # noqa: PLC0415  see above

    from accelerator_autopilot.runtime.broker import client_of  # noqa: PLC0415

    return client_of(source).jetstream(timeout=TIMEOUT_S) if isinstance(source, NatsBroker) else source

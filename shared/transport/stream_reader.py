"""Read a stream from a position, with an ephemeral consumer.

Nothing is delivered before it is requested, so the server's count when the consumer is created is exactly what existed
then: no message is returned twice, and nobody waits for one that does not come. The protocol is NATS ADR-37.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig
from nats.js.errors import NotFoundError

from accelerator_autopilot.contracts.errors import UnavailableError

SILENT_S = 5.0
MAX_AT_ONCE = 1_000
KEPT_S = 60.0
MAX_BYTES_WAITING = 512 * 2**20
_REMOVED = ("DEL", "PURGE")
_PLAIN_TOKENS = 9


class ReadingError(UnavailableError, nats.errors.Error):
    """A read that nobody answered, or that missed messages; another one may succeed."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A message as the stream holds it; `removed` marks the deletion of a key."""

    subject: str
    data: bytes
    sequence: int
    removed: bool


class StreamReader:
    """One consumer that is read on request. `pending` is what the server had for it at the last answer."""

    def __init__(self, js: JetStreamContext, stream: str, config: ConsumerConfig, *, kept_s: float = KEPT_S) -> None:
        self._js, self._stream = js, stream
        self._config = replace(
            config, ack_policy=AckPolicy.NONE, mem_storage=True, num_replicas=1, inactive_threshold=kept_s
        )
        self._consumer = ""
        self._subscription: Subscription | None = None
        self._inbox = ""
        self._waiting: asyncio.Queue[Msg] = asyncio.Queue()
        self._expected = 0
        self.pending = 0

    @property
    def _nc(self) -> Client:
        client: Client = self._js._nc  # noqa: SLF001  the context has no other name for it
        return client

    async def open(self) -> None:
        """Create the consumer. Raises NotFoundError where there is no such stream, and the errors of nats-py."""
        info = await self._js.add_consumer(self._stream, self._config)
        self._consumer, self._expected = info.name, 1
        self.pending = info.num_pending or 0
        nc = self._nc
        self._inbox = nc.new_inbox()
        self._subscription = await nc.subscribe(
            self._inbox, cb=self._waiting.put, pending_bytes_limit=MAX_BYTES_WAITING
        )

    async def close(self) -> None:
        """Delete the consumer; the server does so by itself if it cannot be reached."""
        if self._subscription is not None:
            try:
                await self._subscription.unsubscribe()
                await self._js.delete_consumer(self._stream, self._consumer)
            except (nats.errors.Error, NotFoundError, OSError):
                pass
            self._subscription = None

    async def read(self, most: int) -> list[Stored]:
        """Return up to `most` messages that exist now, in order; fewer, or none, where there are no more.

        Raises ReadingError where some may have been missed or nobody answers: then only a new reader helps.
        """
        most = min(most, MAX_AT_ONCE)
        request = json.dumps({"batch": most, "no_wait": True}).encode()
        await self._nc.publish(f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._consumer}", request, reply=self._inbox)
        found: list[Stored] = []
        while len(found) < most:
            message = await self._next()
            status = message.headers.get("Status") if message.headers and not message.data else None
            if status is None:
                found.append(self._stored(message))
            elif status in ("404", "408"):
                self.pending = 0
                break
            elif status != "100":
                raise ReadingError(f"{self._stream} could not be read: status {status}")
        return found

    async def _next(self) -> Msg:
        # Messages arrive in bursts: a timer for each would cost as much as everything else.
        with suppress(asyncio.QueueEmpty):
            return self._waiting.get_nowait()
        try:
            async with asyncio.timeout(SILENT_S):
                return await self._waiting.get()
        except TimeoutError as error:
            raise ReadingError(f"{self._stream}: nothing arrived for {SILENT_S:g} s") from error

    async def there(self) -> AsyncIterator[Stored]:
        """Return what the server had for this reader at its last answer, and nothing that arrived later."""
        left = self.pending
        while left > 0:
            found = await self.read(left)
            for message in found:
                yield message
            if not found:
                return
            left -= len(found)

    def _stored(self, message: Msg) -> Stored:
        # $JS.ACK.<stream>.<consumer>.<delivered>.<stream sequence>.<consumer sequence>.<time>.<pending>, with a
        # domain and an account before the stream on servers that have those.
        tokens = message.reply.split(".")
        numbers = tokens[5:] if len(tokens) == _PLAIN_TOKENS else tokens[7:]
        sequence, place, self.pending = int(numbers[0]), int(numbers[1]), int(numbers[3])
        if place != self._expected:
            raise ReadingError(f"{self._stream}: message {self._expected} is missing")
        self._expected += 1
        removed = message.headers is not None and message.headers.get("KV-Operation") in _REMOVED
        return Stored(message.subject, message.data, sequence, removed)


@asynccontextmanager
async def reading(js: JetStreamContext, stream: str, config: ConsumerConfig) -> AsyncIterator[StreamReader]:
    """Yield a reader for as long as the block runs. Raises NotFoundError where there is no such stream."""
    reader = StreamReader(js, stream, config)
    await reader.open()
    try:
        yield reader
    finally:
        await reader.close()

"""Publish to streams with many messages in flight, at a third of the cost of a request each.

nats-py makes a request of each publish: a random token, an entry and a callback for its answer, a task that waits for
it with its own timeout. Here all confirmations come to one inbox, each is matched by its number, and one timer handles
all timeouts.
"""

from __future__ import annotations

import asyncio
import json
from itertools import count
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import Header, PubAck
from nats.js.errors import APIError, NoStreamResponseError

from accelerator_autopilot.transport.wire_protocol import receive_directly

CHECK_INTERVAL_S = 0.25
_NO_RESPONDERS = "503"


class AckedPublisher(JetStreamContext):
    """A JetStream context with a cheaper `publish`. It belongs to one connection for its lifetime."""

    def __init__(self, client: Client, *, timeout_s: float = 5.0) -> None:
        super().__init__(client, timeout=timeout_s)
        self._client, self._timeout_s = client, timeout_s
        # By the subject of the answer, with the time of its timeout.
        self._waiting: dict[str, tuple[asyncio.Future[Msg], float]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._numbers = count()
        self._inbox = ""
        self._opening = asyncio.Lock()

    async def publish(
        self,
        subject: str,
        payload: bytes = b"",
        timeout: float | None = None,  # noqa: ASYNC109  nats-py's
        stream: str | None = None,
        headers: dict[str, Any] | None = None,
        msg_ttl: float | None = None,
    ) -> PubAck:
        """Publish and wait until the stream stores it, at most CHECK_INTERVAL_S longer than `timeout` in seconds.

        Raises what nats-py's does.
        """
        fields = dict(headers or {})
        if stream is not None:
            fields[Header.EXPECTED_STREAM] = stream
        if msg_ttl is not None:
            fields[Header.MSG_TTL] = str(int(msg_ttl))
        if not self._inbox:
            await self._open()
        reply, loop = f"{self._inbox}.{next(self._numbers)}", asyncio.get_running_loop()
        answered: asyncio.Future[Msg] = loop.create_future()
        self._waiting[reply] = answered, loop.time() + (self._timeout_s if timeout is None else timeout)
        if self._timer is None:
            self._timer = loop.call_later(CHECK_INTERVAL_S, self._give_up_late)
        try:
            await self._client.publish(subject, payload, reply=reply, headers=fields or None)
            answer = await answered
        finally:
            del self._waiting[reply]
        return _confirmation(answer)

    async def _open(self) -> None:
        async with self._opening:
            if not self._inbox:
                inbox = self._client.new_inbox()
                subscription = await self._client.subscribe(f"{inbox}.*", cb=self._on_answer)
                receive_directly(self._client, subscription, self._take)
                self._inbox = inbox

    async def _on_answer(self, answer: Msg) -> None:
        self._take(answer)

    def _take(self, answer: Msg) -> None:
        waiting = self._waiting.get(answer.subject)
        if waiting is not None and not waiting[0].done():
            waiting[0].set_result(answer)

    def _give_up_late(self) -> None:
        """Time out publishes that were not confirmed."""
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        for answered, until_s in self._waiting.values():
            if until_s <= now_s and not answered.done():
                answered.set_exception(nats.errors.TimeoutError())
        self._timer = loop.call_later(CHECK_INTERVAL_S, self._give_up_late) if self._waiting else None


def _confirmation(answer: Msg) -> PubAck:
    """Parse a confirmation.

    Raises APIError or NoStreamResponseError for a rejection, and nats.errors.Error otherwise.
    """
    if answer.headers and answer.headers.get(Header.STATUS) == _NO_RESPONDERS:
        raise NoStreamResponseError
    try:
        fields = json.loads(answer.data)
        if "error" in fields:
            raise APIError.from_error(fields["error"])
        # Its own `from_response` iterates over all fields for each message.
        return PubAck(fields["stream"], fields["seq"], fields.get("domain"), fields.get("duplicate"))
    except (ValueError, TypeError, LookupError) as error:
        raise nats.errors.Error("nats: invalid publish acknowledgement") from error

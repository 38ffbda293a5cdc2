"""Publishing to streams at the rate of jobs: the confirmations come to one inbox, and are taken as they are read.

nats-py makes a request of each publish: a token of random bytes, an entry and a callback for its answer, a task that
waits for it with a timeout of its own. Here an answer is found by a number.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import Header, PubAck
from nats.js.errors import APIError, NoStreamResponseError

from accelerator_autopilot.transport.wire_protocol import take_at_once

_NO_RESPONDERS = "503"


class AckedPublisher(JetStreamContext):
    """A JetStream context whose `publish` does the same for less."""

    def __init__(self, client: Client, *, timeout_s: float = 5.0) -> None:
        super().__init__(client, timeout=timeout_s)
        self._client, self._timeout_s = client, timeout_s
        self._waiting: dict[str, asyncio.Future[Msg]] = {}
        self._number = 0
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
        """Publish and wait until the stream has it. Raises what nats-py's does."""
        told = dict(headers or {})
        if stream is not None:
            told[Header.EXPECTED_STREAM] = stream
        if msg_ttl is not None:
            told[Header.MSG_TTL] = str(int(msg_ttl))
        if not self._inbox:
            await self._open()
        self._number += 1
        number = str(self._number)
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[Msg] = loop.create_future()
        self._waiting[number] = answered
        late = loop.call_later(self._timeout_s if timeout is None else timeout, _give_up, answered)
        try:
            await self._client.publish(subject, payload, reply=f"{self._inbox}.{number}", headers=told or None)
            answer = await answered
        finally:
            late.cancel()
            del self._waiting[number]
        if answer.headers and answer.headers.get(Header.STATUS) == _NO_RESPONDERS:
            raise NoStreamResponseError
        told_by_server = json.loads(answer.data)
        if "error" in told_by_server:
            raise APIError.from_error(told_by_server["error"])
        return PubAck.from_response(told_by_server)

    async def _open(self) -> None:
        async with self._opening:
            if not self._inbox:
                inbox = self._client.new_inbox()
                subscription = await self._client.subscribe(f"{inbox}.*", cb=self._on_answer)
                take_at_once(self._client, subscription, self._take)
                self._inbox = inbox

    async def _on_answer(self, answer: Msg) -> None:
        self._take(answer)

    def _take(self, answer: Msg) -> None:
        waiting = self._waiting.get(answer.subject.rsplit(".", 1)[1])
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)


def _give_up(answered: asyncio.Future[Msg]) -> None:
    if not answered.done():
        answered.set_exception(nats.errors.TimeoutError())

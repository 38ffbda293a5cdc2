"""Publish to a stream that may be electing a leader, and publish many messages as one write."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass

import nats.errors
from nats.js import JetStreamContext
from nats.js.api import Header, PubAck
from nats.js.errors import NoStreamResponseError

from accelerator_autopilot.contracts.ids import new_id

PATIENCE_S = 8.0
PAUSE_S = 0.25
CONFIRM_S = 10.0
# After these errors the stream does not have the message, or has it under its id and deduplicates it.
_ELECTING = (NoStreamResponseError, nats.errors.NoRespondersError)


async def publish_patiently(
    js: JetStreamContext,
    subject: str,
    body: bytes,
    headers: dict[str, str],
    *,
    stream: str | None = None,
    patience_s: float = PATIENCE_S,
) -> PubAck:
    """Publish until the stream confirms, even while it elects a leader.

    `headers` must contain a message id. Raises the errors of nats-py when it takes longer.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + patience_s
    while True:
        try:
            # nats-py modifies the headers that it is given.
            return await js.publish(subject, body, headers=dict(headers), stream=stream)
        except _ELECTING:
            if loop.time() > until:
                raise
            await asyncio.sleep(PAUSE_S)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message for a stream; its headers contain a message id."""

    stream: str
    subject: str
    headers: dict[str, str]
    body: bytes


async def publish_together(js: JetStreamContext, messages: Sequence[Outgoing]) -> bool:
    """Store several messages of one stream with a single sync of the disk (NATS ADR-50).

    False when they were not stored, or that is unknown: then each may be published by itself and is still stored
    once. A stream that does not support it, is full, or has any of their ids already rejects the batch.
    """
    name, nc = new_id(), js._nc  # noqa: SLF001  the context has no other name for it
    reply: dict[str, object] = {}
    try:
        for number, message in enumerate(messages, 1):
            headers = message.headers | {
                Header.EXPECTED_STREAM.value: message.stream,
                Header.BATCH_ID.value: name,
                Header.BATCH_SEQUENCE.value: str(number),
            }
            last = number == len(messages)
            if last:
                headers[Header.BATCH_COMMIT.value] = "1"
            if number > 1 and not last:
                await nc.publish(message.subject, message.body, headers=headers)
                continue
            answer = (await nc.request(message.subject, message.body, headers=headers, timeout=CONFIRM_S)).data
            reply = json.loads(answer) if answer else {}
            if "error" in reply:
                return False
    except (nats.errors.Error, OSError, ValueError):
        return False
    return reply.get("count") == len(messages)

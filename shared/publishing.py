"""Publishing to a stream that may be choosing a new leader: for some seconds it answers nobody."""

from __future__ import annotations

import asyncio

import nats.errors
from nats.js import JetStreamContext
from nats.js.api import PubAck
from nats.js.errors import NoStreamResponseError

PATIENCE_S = 8.0
PAUSE_S = 0.25
# With these the stream has not taken the message, or has under its id, and takes it once all the same.
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
    """Publish until the stream confirms, also while it elects a leader. `headers` must hold a message id.

    Raises the errors of nats-py when it takes longer.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + patience_s
    while True:
        try:
            # nats-py writes into the headers that it is given.
            return await js.publish(subject, body, headers=dict(headers), stream=stream)
        except _ELECTING:
            if loop.time() > until:
                raise
            await asyncio.sleep(PAUSE_S)

"""A distributed lock: one process at a time runs what must not run concurrently."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import nats.errors
from nats.js import JetStreamContext
from nats.js.api import KeyValueConfig
from nats.js.errors import APIError, BucketNotFoundError, KeyWrongLastSequenceError, NotFoundError
from nats.js.kv import KeyValue

from accelerator_autopilot.contracts.ids import new_id

RETRY_INTERVAL_S = 0.05


@asynccontextmanager
async def turn(js: JetStreamContext, bucket: KeyValueConfig, key: str) -> AsyncIterator[None]:
    """Wait for the lock, then hold it while the block runs.

    The bucket's time to live releases the lock of a holder that dies; it must be longer than the block usually
    takes. If the server has no room for the key, nobody waits. Raises the client's errors and the block's.
    """
    taken: tuple[KeyValue, int] | None = None
    with suppress(APIError):
        while taken is None:
            try:
                kv = await _bucket(js, bucket)
                taken = kv, await kv.create(key, new_id().encode())
            except (KeyWrongLastSequenceError, nats.errors.TimeoutError):
                await asyncio.sleep(RETRY_INTERVAL_S)
    try:
        yield
    finally:
        if taken is not None:
            with suppress(APIError, nats.errors.Error, OSError):
                await taken[0].delete(key, last=taken[1])


async def _bucket(js: JetStreamContext, config: KeyValueConfig) -> KeyValue:
    assert config.bucket  # noqa: S101  a bucket has a name
    try:
        return await js.key_value(config.bucket)
    except (BucketNotFoundError, NotFoundError):
        # A copy: the client modifies it.
        return await js.create_key_value(replace(config))

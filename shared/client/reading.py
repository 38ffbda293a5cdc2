"""Reading streams and buckets without being a consumer of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TypeVar

import nats.errors
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import BucketNotFoundError, InvalidKeyError, KeyNotFoundError, NotFoundError
from pydantic import BaseModel, ValidationError

from shared.unreadable import parse_value

M = TypeVar("M", bound=BaseModel)


async def bucket_items(js: JetStreamContext, bucket: str, model: type[M]) -> dict[str, M]:
    """Every key of a bucket; values that do not parse are left out.

    The keys come from the stream's subjects: the client's own `keys()` misses one that is written
    while it lists.
    """
    prefix = f"$KV.{bucket}."
    try:
        kv = await js.key_value(bucket)
        subjects = (await js.stream_info(f"KV_{bucket}", subjects_filter=f"{prefix}>")).state.subjects or {}
    except (BucketNotFoundError, NotFoundError):
        return {}
    found: dict[str, M] = {}
    for subject in subjects:
        key = subject.removeprefix(prefix)
        try:
            value = (await kv.get(key)).value
        except (KeyNotFoundError, InvalidKeyError):
            # A key that the client cannot ask for was written by somebody else, past every rule for keys.
            continue
        parsed = parse_value(bucket, key, value, model)
        if parsed is not None:
            found[key] = parsed
    return found


async def count_messages(js: JetStreamContext, stream: str, subject: str) -> int:
    """Messages of a stream under a subject, counted by the server without listing them."""
    config = ConsumerConfig(
        filter_subject=subject,
        deliver_policy=DeliverPolicy.ALL,
        ack_policy=AckPolicy.NONE,
        mem_storage=True,
        inactive_threshold=5.0,
    )
    info = await js.add_consumer(stream, config)
    await js.delete_consumer(stream, info.name)
    return info.num_pending or 0


async def last_messages(js: JetStreamContext, stream: str, subject: str, model: type[M], *, limit: int) -> list[M]:
    """The newest messages of a stream under a subject, oldest first; what does not parse is left out."""
    info = await js.stream_info(stream)
    # A generous window: streams of several subjects hold others in between.
    start = max(info.state.first_seq, info.state.last_seq - limit * 20)
    if not info.state.messages:
        return []
    config = ConsumerConfig(deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=max(start, 1))
    found: list[M] = []
    async for data in _drain(js, stream, subject, config):
        try:
            found.append(model.model_validate_json(data))
        except ValidationError:
            continue
    return found[-limit:]


async def _drain(js: JetStreamContext, stream: str, subject: str, config: ConsumerConfig) -> AsyncIterator[bytes]:
    subscription = await js.subscribe(subject, stream=stream, ordered_consumer=True, config=config)
    try:
        pending = (await subscription.consumer_info()).num_pending or 0
        delivered = (await subscription.consumer_info()).delivered
        left = pending + (delivered.consumer_seq if delivered else 0)
        while left > 0:
            message = await subscription.next_msg(timeout=2.0)
            yield message.data
            left -= 1
    except (TimeoutError, nats.errors.TimeoutError):
        return
    finally:
        await subscription.unsubscribe()

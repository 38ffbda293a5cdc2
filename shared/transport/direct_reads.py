"""Read streams and buckets without a consumer."""

from __future__ import annotations

import asyncio
import json
import re
from collections import deque
from contextlib import suppress
from typing import TypeVar

import nats.errors
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import APIError, NotFoundError
from pydantic import BaseModel, ValidationError

from accelerator_autopilot.transport.stream_reader import reading
from accelerator_autopilot.transport.unreadable_values import parse_value

M = TypeVar("M", bound=BaseModel)
VALID_KEY = re.compile(r"[-/_=.a-zA-Z0-9]+")
PARSED_AT_ONCE = 100  # then other tasks get a turn at the event loop
MAX_READINGS = 10  # for a bucket that is written faster than it is read


async def bucket_items(js: JetStreamContext, bucket: str, model: type[M]) -> dict[str, M]:
    """Yield every key of a bucket; unreadable values and keys that no client can request are left out."""
    return {
        key: parsed
        for key, value in (await bucket_values(js, bucket)).items()
        if (parsed := parse_value(bucket, key, value, model)) is not None
    }


async def bucket_values(js: JetStreamContext, bucket: str) -> dict[str, bytes]:
    """Return the bytes of every key; empty where there is no such bucket. Raises the errors of nats-py."""
    prefix = f"$KV.{bucket}."
    config = ConsumerConfig(filter_subject=f"{prefix}>", deliver_policy=DeliverPolicy.LAST_PER_SUBJECT)
    found: dict[str, bytes] = {}
    try:
        async with reading(js, f"KV_{bucket}", config) as reader:
            # A key that is written during the read comes again, after those that existed before.
            for _ in range(MAX_READINGS):
                async for message in reader.there():
                    key = message.subject.removeprefix(prefix)
                    if message.removed:
                        found.pop(key, None)
                    elif VALID_KEY.fullmatch(key):
                        found[key] = message.data
                if not reader.pending:
                    break
    except NotFoundError:
        return {}
    return found


async def subjects_of(js: JetStreamContext, stream: str, wildcard: str) -> dict[str, int]:
    """Return the matching subjects of a stream, with the number of messages in each.

    The server returns 100,000 at a time, and nats-py only requests the first page.
    """
    found: dict[str, int] = {}
    read, total = 0, 1
    while read < total:
        request = json.dumps({"subjects_filter": wildcard, "offset": read}).encode()
        answer = await js._api_request(f"{js._prefix}.STREAM.INFO.{stream}", request, timeout=js._timeout)  # noqa: SLF001
        page = answer["state"].get("subjects") or {}
        if not page:
            break
        found |= page
        read, total = read + len(page), int(answer.get("total") or 0)
    return found


async def count_messages(js: JetStreamContext, stream: str, subject: str) -> int:
    """Count the messages of a stream under a subject on the server, without listing them."""
    config = ConsumerConfig(
        filter_subject=subject,
        deliver_policy=DeliverPolicy.ALL,
        ack_policy=AckPolicy.NONE,
        mem_storage=True,
        inactive_threshold=5.0,
    )
    info = await js.add_consumer(stream, config)
    with suppress(APIError, nats.errors.Error):
        await js.delete_consumer(stream, info.name)
    return info.num_pending or 0


async def last_messages(js: JetStreamContext, stream: str, subject: str, model: type[M], *, limit: int) -> list[M]:
    """Return the newest messages of a stream under a subject, oldest first; unreadable ones are left out.

    Messages that arrive during the read are not included. Raises the errors of nats-py.
    """
    state = (await js.stream_info(stream)).state
    if not state.messages:
        return []
    # Streams of several subjects hold others in between: go back until there are enough of this one.
    window = limit
    while True:
        start = max(state.first_seq, state.last_seq - window + 1, 1)
        config = ConsumerConfig(
            filter_subject=subject, deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=start
        )
        async with reading(js, stream, config) as reader:
            if reader.pending >= limit or start <= max(state.first_seq, 1):
                newest = deque[bytes](maxlen=limit)
                async for message in reader.there():
                    newest.append(message.data)
                break
        window *= 8
    found: list[M] = []
    for number, data in enumerate(newest):
        if number % PARSED_AT_ONCE == 0:
            await asyncio.sleep(0)
        try:
            found.append(model.model_validate_json(data))
        except ValidationError:
            continue
    return found

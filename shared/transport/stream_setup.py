"""Streams, buckets and object stores: created and repaired at every start."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import fields, replace

from nats.errors import TimeoutError as NatsTimeoutError
from nats.js import JetStreamContext
from nats.js.api import (
    ConsumerConfig,
    KeyValueConfig,
    ObjectStoreConfig,
    StreamConfig,
)
from nats.js.errors import BadRequestError, BucketNotFoundError, NotFoundError, ServerError

from accelerator_autopilot.contracts.errors import UnavailableError
from accelerator_autopilot.contracts.streams import BUCKETS, MIB, OBJECT_STORES, STREAMS
from accelerator_autopilot.transport.distributed_lock import turn
from accelerator_autopilot.transport.stream_sizes import (
    MIN_SCALE,
    NO_STORAGE,
    differs,
    scale_to_start_with,
    scaled,
)

log = logging.getLogger(__name__)

_REPAIRED = {
    "subjects",
    "max_age",
    "max_bytes",
    "max_msgs_per_subject",
    "duplicate_window",
    "discard",
    "discard_new_per_subject",
    "num_replicas",
    "allow_atomic",
    "allow_direct",
    "allow_msg_ttl",
    "allow_msg_schedules",
}


async def ensure(
    js: JetStreamContext, replicas: int = 1, *, deadline_s: float = 30.0, results_mib: int | None = None
) -> None:
    """Create what is missing and repair what drifted. Raises UnavailableError past the deadline.

    RESULTS gets the size `results_mib`, or keeps its size where that is not given. The number of replicas only
    increases: a service that is configured for one removes none from a cluster with three. Several services may do
    this at once at a first start. They do it one at a time: the server checks reservations before it adds one, so
    two together may reserve more than there is, and from then on it rejects every change.
    """
    leaders = next(bucket for bucket in BUCKETS if bucket.bucket == "leader")
    try:
        async with asyncio.timeout(deadline_s) as waiting, turn(js, leaders, "streams"):
            waiting.reschedule(None)
            await _ensure_within(js, replicas, deadline_s, results_mib)
    except TimeoutError as error:
        raise UnavailableError(f"other processes were creating streams for {deadline_s:g} s") from error


async def _ensure_within(js: JetStreamContext, replicas: int, deadline_s: float, results_mib: int | None) -> None:
    loop = asyncio.get_running_loop()
    until = loop.time() + deadline_s
    scale = 0.0
    while True:
        try:
            scale = scale or await scale_to_start_with(js, STREAMS)
            await _ensure_all(js, replicas, scale, results_mib)
        except ServerError as error:
            # The server reserves every stream's size at once, so that none can use up the others' disk.
            if error.err_code != NO_STORAGE or scale <= MIN_SCALE:
                raise UnavailableError(f"JetStream refuses the streams: {error}") from error
            scale /= 2
            log.warning("the server's disk is small; reducing stream sizes", extra={"share": scale})
        except (NatsTimeoutError, BadRequestError, OSError) as error:
            if loop.time() > until:
                raise UnavailableError(
                    f"JetStream did not accept the streams within {deadline_s} s: {error}"
                ) from error
            await asyncio.sleep(0.2)
        else:
            return


async def _ensure_all(js: JetStreamContext, replicas: int, scale: float, results_mib: int | None) -> None:
    for stream in STREAMS:
        is_results = stream.name == "RESULTS"
        sized = replace(stream, max_bytes=results_mib * MIB) if is_results and results_mib is not None else stream
        wanted = replace(sized, num_replicas=replicas, max_bytes=scaled(sized, scale))
        # An operator's value is used exactly, where there is room.
        exactly = is_results and results_mib is not None and scale >= 1
        resize = not is_results or results_mib is not None or scale < 1
        await _ensure_stream(js, wanted, resize=resize, exactly=exactly)
    for bucket in BUCKETS:
        await _ensure_bucket(js, replace(bucket, replicas=replicas))
    for store in OBJECT_STORES:
        await _ensure_object_store(js, replace(store, replicas=replicas, max_bytes=scaled(store, scale)))


async def _ensure_stream(js: JetStreamContext, wanted: StreamConfig, *, resize: bool, exactly: bool) -> None:
    assert wanted.name  # noqa: S101  declared above
    try:
        current = (await js.stream_info(wanted.name)).config
    except NotFoundError:
        await js.add_stream(wanted)
        return
    # A missing value means no: the server reports false, or nothing.
    drifted = {
        f.name: getattr(wanted, f.name)
        for f in fields(wanted)
        if f.name in _REPAIRED and (getattr(current, f.name) or None) != (getattr(wanted, f.name) or None)
    }
    if (current.num_replicas or 1) >= (wanted.num_replicas or 1):
        drifted.pop("num_replicas", None)
    if not resize or not (exactly or differs(current.max_bytes, wanted.max_bytes)):
        drifted.pop("max_bytes", None)
    if drifted:
        await js.update_stream(replace(current, **drifted))


async def _ensure_bucket(js: JetStreamContext, wanted: KeyValueConfig) -> None:
    try:
        await js.key_value(wanted.bucket)
    except (BucketNotFoundError, NotFoundError):
        await js.create_key_value(wanted)
    else:
        await _grow(js, f"KV_{wanted.bucket}", wanted.replicas)


async def _grow(js: JetStreamContext, stream: str, replicas: int | None, age_s: float | None = None) -> None:
    """Increase the replicas and the maximum age of the stream under a bucket; never decrease them."""
    current = (await js.stream_info(stream)).config
    if (current.num_replicas or 1) < (replicas or 1):
        await js.update_stream(replace(current, num_replicas=replicas))
        log.info("more copies", extra={"stream": stream, "replicas": replicas})
    if age_s and current.max_age and current.max_age < age_s:
        current = (await js.stream_info(stream)).config
        await js.update_stream(replace(current, max_age=age_s))
        log.info("keeps what it holds for longer", extra={"stream": stream, "age_s": age_s})


async def _ensure_object_store(js: JetStreamContext, wanted: ObjectStoreConfig) -> None:
    assert wanted.bucket  # noqa: S101  declared above
    try:
        await js.object_store(wanted.bucket)
    except (BucketNotFoundError, NotFoundError):
        await js.create_object_store(wanted.bucket, config=wanted)
    else:
        await _grow(js, f"OBJ_{wanted.bucket}", wanted.replicas, wanted.ttl)


async def ensure_consumer(js: JetStreamContext, stream: str, config: ConsumerConfig) -> None:
    """Create the durable, or update it to this configuration."""
    await js.add_consumer(stream, config)

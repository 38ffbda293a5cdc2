"""Streams, buckets and durable consumers: declared once here, created and repaired at every start."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import fields, replace

from nats.errors import TimeoutError as NatsTimeoutError
from nats.js import JetStreamContext
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DeliverPolicy,
    DiscardPolicy,
    KeyValueConfig,
    ObjectStoreConfig,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)
from nats.js.errors import BadRequestError, BucketNotFoundError, NotFoundError, ServerError

from shared import subjects
from shared.errors import UnavailableError
from shared.one_at_a_time import turn
from shared.stream_sizes import NO_STORAGE, SMALLEST_SCALE, differs, scale_to_start_with, scaled

log = logging.getLogger(__name__)

HOUR_S = 3600.0
DAY_S = 24 * HOUR_S
MIB = 2**20

JOB_ACK_WAIT_S = 10.0
JOB_AGE_S = 7 * DAY_S
# What waits for other jobs is looked at again this often, also when the news of a result was missed.
WAITING_ACK_WAIT_S = 15.0
RESULTS_MIB = 16_384
PAYLOAD_INLINE_LIMIT = 256 * 1024


def _stream(name: str, *subject: str, age_s: float, mib: int, **more: object) -> StreamConfig:
    config = StreamConfig(
        name=name,
        subjects=list(subject),
        max_age=age_s,
        max_bytes=mib * MIB,
        storage=StorageType.FILE,
        duplicate_window=120.0,
        allow_direct=True,
    )
    return replace(config, **more)  # type: ignore[arg-type]


STREAMS: tuple[StreamConfig, ...] = (
    _stream("TELEMETRY", subjects.FRAMES, age_s=HOUR_S, mib=4096),
    _stream("EVENTS", subjects.EVENTS, age_s=30 * DAY_S, mib=512),
    _stream("ALERTS", subjects.ALERTS, age_s=90 * DAY_S, mib=512),
    _stream("COMMANDS", subjects.COMMANDS, age_s=DAY_S, mib=256),
    _stream("OUTCOMES", subjects.OUTCOMES, age_s=90 * DAY_S, mib=512),
    _stream("RECOMMENDATIONS", subjects.RECOMMENDATIONS, age_s=90 * DAY_S, mib=256),
    _stream("DECISIONS", subjects.DECISIONS, age_s=30 * DAY_S, mib=256),
    _stream(
        "JOBS",
        subjects.JOBS,
        subjects.JOBS_WITH_ID,
        subjects.JOBS_OF_BATCHES,
        subjects.WAITING,
        # A day longer than a job may wait: what nobody takes is ended with a reason, and does not just vanish.
        age_s=JOB_AGE_S + DAY_S,
        mib=4096,
        retention=RetentionPolicy.WORK_QUEUE,
        discard=DiscardPolicy.NEW,
        allow_msg_ttl=True,
        # Many jobs of a batch are one write.
        allow_atomic=True,
    ),
    # The server schedules only where it may discard what is old, so there is no size here at which it would.
    _stream(
        "LATER",
        subjects.LATER,
        subjects.DUE,
        age_s=JOB_AGE_S + DAY_S,
        mib=0,
        max_bytes=-1,
        retention=RetentionPolicy.WORK_QUEUE,
        allow_msg_ttl=True,
        allow_msg_schedules=True,
    ),
    # One message a subject and "discard new" make the first result of a job the only one.
    _stream(
        "RESULTS",
        subjects.RESULTS,
        subjects.RESULTS_OF_BATCHES,
        age_s=7 * DAY_S,
        mib=RESULTS_MIB,
        allow_msg_ttl=True,
        discard=DiscardPolicy.NEW,
        discard_new_per_subject=True,
        max_msgs_per_subject=1,
    ),
    # Longer than the others: whoever ends a job again, its result not being confirmed, may be another process by then.
    _stream("DEAD", subjects.DEAD, age_s=30 * DAY_S, mib=512, allow_msg_ttl=True, duplicate_window=600.0),
    _stream("POISON", subjects.POISON, age_s=7 * DAY_S, mib=64),
    _stream("AUDIT", subjects.AUDIT, age_s=365 * DAY_S, mib=512, deny_delete=True, deny_purge=True),
)

BUCKETS: tuple[KeyValueConfig, ...] = (
    KeyValueConfig(bucket="inventory"),
    KeyValueConfig(bucket="policy", history=10),
    KeyValueConfig(bucket="jobs", ttl=JOB_AGE_S),
    KeyValueConfig(bucket="batches", ttl=JOB_AGE_S),
    # Each claim has a time to live of its own.
    KeyValueConfig(bucket="claims"),
    KeyValueConfig(bucket="subscriptions"),
    KeyValueConfig(bucket="silences"),
    KeyValueConfig(bucket="acknowledged", ttl=90 * 86_400.0),
    KeyValueConfig(bucket="pools"),
    KeyValueConfig(bucket="open_alerts"),
    KeyValueConfig(bucket="cordons"),
    KeyValueConfig(bucket="scheduler"),
    KeyValueConfig(bucket="notices"),
    # What is written only to see that it can be.
    KeyValueConfig(bucket="probes", ttl=60.0),
    # A leader that does not renew its key loses it after this time.
    KeyValueConfig(bucket="leader", ttl=5.0),
)

OBJECT_STORES: tuple[ObjectStoreConfig, ...] = (
    # Each has a time of its own, which ends sooner: a job may wait for its time, then as long in the queue.
    ObjectStoreConfig(bucket="payloads", ttl=2 * JOB_AGE_S + DAY_S, max_bytes=4096 * MIB),
    ObjectStoreConfig(bucket="artifacts", max_bytes=4096 * MIB),
)

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


def durable(name: str, *filters: str, ack_wait_s: float = 30.0, **more: object) -> ConsumerConfig:
    """A durable pull consumer with explicit acknowledgements and no limit on deliveries.

    Without filters it takes the whole stream. Who consumes decides when to give up, so that
    nothing is left behind in a stream unseen.
    """
    config = ConsumerConfig(
        durable_name=name,
        ack_policy=AckPolicy.EXPLICIT,
        deliver_policy=DeliverPolicy.ALL,
        ack_wait=ack_wait_s,
        max_deliver=-1,
        filter_subject=filters[0] if len(filters) == 1 else None,
        filter_subjects=list(filters) if len(filters) > 1 else None,
    )
    return replace(config, **more)  # type: ignore[arg-type]


def job_durable(kind: str, priority: str) -> ConsumerConfig:
    """The consumer that all workers of a kind share for one priority."""
    name = f"pool-{subjects.name_part(kind)}-{priority}"
    return durable(name, *subjects.jobs_of(kind, priority), ack_wait_s=JOB_ACK_WAIT_S, max_ack_pending=10_000)


def waiting_durable() -> ConsumerConfig:
    """The consumer of jobs that wait for others."""
    return durable("keeper-waiting", subjects.WAITING, ack_wait_s=WAITING_ACK_WAIT_S, max_ack_pending=100_000)


def due_durable() -> ConsumerConfig:
    """The consumer of jobs whose time has come."""
    return durable("keeper-due", subjects.DUE, ack_wait_s=WAITING_ACK_WAIT_S)


async def ensure(
    js: JetStreamContext, replicas: int = 1, *, deadline_s: float = 30.0, results_mib: int | None = None
) -> None:
    """Create what is missing and repair what drifted. Raises UnavailableError past the deadline.

    RESULTS gets the size `results_mib`, or where that is not given keeps the one that it has.

    Copies only ever become more: a service that was left at one copy takes none from a cluster that has three.

    Several services do this at once at a first start. One at a time does: the server looks at what is set aside before
    it sets more aside, so two together may set aside more than there is, and from then on it refuses every change.
    """
    leaders = next(bucket for bucket in BUCKETS if bucket.bucket == "leader")
    try:
        async with asyncio.timeout(deadline_s) as waiting, turn(js, leaders, "streams"):
            waiting.reschedule(None)
            await _ensure_within(js, replicas, deadline_s, results_mib)
    except TimeoutError as error:
        raise UnavailableError(f"others were making streams for {deadline_s:g} s") from error


async def _ensure_within(js: JetStreamContext, replicas: int, deadline_s: float, results_mib: int | None) -> None:
    loop = asyncio.get_running_loop()
    until = loop.time() + deadline_s
    scale = 0.0
    while True:
        try:
            scale = scale or await scale_to_start_with(js, STREAMS)
            await _ensure_all(js, replicas, scale, results_mib)
        except ServerError as error:
            # The server sets every stream's size aside at once, so that none can fill the others' disk.
            if error.err_code != NO_STORAGE or scale <= SMALLEST_SCALE:
                raise UnavailableError(f"JetStream refuses our streams: {error}") from error
            scale /= 2
            log.warning("the server's disk is small, streams keep less", extra={"share": scale})
        except (NatsTimeoutError, BadRequestError, OSError) as error:
            if loop.time() > until:
                raise UnavailableError(f"JetStream did not take our streams in {deadline_s} s: {error}") from error
            await asyncio.sleep(0.2)
        else:
            return


async def _ensure_all(js: JetStreamContext, replicas: int, scale: float, results_mib: int | None) -> None:
    for stream in STREAMS:
        is_results = stream.name == "RESULTS"
        sized = replace(stream, max_bytes=results_mib * MIB) if is_results and results_mib is not None else stream
        wanted = replace(sized, num_replicas=replicas, max_bytes=scaled(sized, scale))
        # What an operator asked for holds to the byte, where there is room.
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
    # What is not said is no: the server tells it as false, or not at all.
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
    """Give the stream under a bucket more copies and a greater age; never fewer, never a smaller one."""
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

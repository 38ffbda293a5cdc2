"""Streams, buckets and durable consumers, each declared once."""

from __future__ import annotations

from dataclasses import replace

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

from accelerator_autopilot.contracts import subjects

HOUR_S = 3600.0
DAY_S = 24 * HOUR_S
MIB = 2**20

JOB_ACK_WAIT_S = 10.0
JOB_AGE_S = 7 * DAY_S
# Jobs that wait for others are checked again this often, in case a result's message was missed.
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
        *subjects.in_any_project(subjects.JOBS, subjects.JOBS_WITH_ID, subjects.JOBS_OF_BATCHES, subjects.WAITING),
        # A day longer than a job may wait: a job that nobody takes is ended with a reason, and does not just
        # vanish.
        age_s=JOB_AGE_S + DAY_S,
        mib=4096,
        retention=RetentionPolicy.WORK_QUEUE,
        discard=DiscardPolicy.NEW,
        allow_msg_ttl=True,
        # Many jobs of a batch are one write.
        allow_atomic=True,
    ),
    # The server only schedules messages where it may discard old ones, so there is no size limit at which it would.
    _stream(
        "LATER",
        *subjects.in_any_project(subjects.LATER, subjects.DUE),
        age_s=JOB_AGE_S + DAY_S,
        mib=0,
        max_bytes=-1,
        retention=RetentionPolicy.WORK_QUEUE,
        allow_msg_ttl=True,
        allow_msg_schedules=True,
    ),
    # One message per subject and "discard new" store only the first result of a job.
    _stream(
        "RESULTS",
        *subjects.in_any_project(subjects.RESULTS, subjects.RESULTS_OF_BATCHES),
        age_s=7 * DAY_S,
        mib=RESULTS_MIB,
        allow_msg_ttl=True,
        discard=DiscardPolicy.NEW,
        discard_new_per_subject=True,
        max_msgs_per_subject=1,
    ),
    # Longer than the others: whoever ends a job again after an unconfirmed result may be another process by then.
    _stream(
        "DEAD",
        *subjects.in_any_project(subjects.DEAD),
        age_s=30 * DAY_S,
        mib=512,
        allow_msg_ttl=True,
        duplicate_window=600.0,
    ),
    _stream("POISON", subjects.POISON, age_s=7 * DAY_S, mib=64),
    _stream("AUDIT", subjects.AUDIT, age_s=365 * DAY_S, mib=512, deny_delete=True, deny_purge=True),
)

BUCKETS: tuple[KeyValueConfig, ...] = (
    KeyValueConfig(bucket="inventory"),
    KeyValueConfig(bucket="policy", history=10),
    KeyValueConfig(bucket="jobs", ttl=JOB_AGE_S),
    KeyValueConfig(bucket="batches", ttl=JOB_AGE_S),
    # Each claim has its own time to live.
    KeyValueConfig(bucket="claims"),
    KeyValueConfig(bucket="subscriptions"),
    KeyValueConfig(bucket="silences"),
    KeyValueConfig(bucket="acknowledged", ttl=90 * 86_400.0),
    KeyValueConfig(bucket="pools"),
    KeyValueConfig(bucket="open_alerts"),
    KeyValueConfig(bucket="cordons"),
    # The newest commands of pools and orchestrators; what is older than a few minutes has expired.
    KeyValueConfig(bucket="carried_out", ttl=HOUR_S),
    KeyValueConfig(bucket="scheduler"),
    KeyValueConfig(bucket="notices"),
    # Written only to test whether writes succeed.
    KeyValueConfig(bucket="probes", ttl=60.0),
    # A leader that does not renew its key loses it after this time.
    KeyValueConfig(bucket="leader", ttl=5.0),
)

OBJECT_STORES: tuple[ObjectStoreConfig, ...] = (
    # Each has its own, earlier end: a job may wait for its time, then as long again in the queue.
    ObjectStoreConfig(bucket="payloads", ttl=2 * JOB_AGE_S + DAY_S, max_bytes=4096 * MIB),
    ObjectStoreConfig(bucket="artifacts", max_bytes=4096 * MIB),
)


def durable(name: str, *filters: str, ack_wait_s: float = 30.0, **more: object) -> ConsumerConfig:
    """Return a durable pull consumer with explicit acknowledgements and unlimited deliveries.

    Without filters it takes the whole stream. Consumers decide when to give up, so that no message is left behind
    in a stream unnoticed.
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
    """Return the consumer that all workers of a kind share for one priority."""
    name = f"pool-{subjects.name_part(kind)}-{priority}"
    return durable(name, *subjects.jobs_of(kind, priority), ack_wait_s=JOB_ACK_WAIT_S, max_ack_pending=10_000)


def waiting_durable() -> ConsumerConfig:
    """Return the consumer of jobs that wait for others."""
    return durable(
        "keeper-waiting",
        *subjects.in_any_project(subjects.WAITING),
        ack_wait_s=WAITING_ACK_WAIT_S,
        max_ack_pending=100_000,
    )


def due_durable() -> ConsumerConfig:
    """Return the consumer of jobs whose time has come."""
    return durable("keeper-due", *subjects.in_any_project(subjects.DUE), ack_wait_s=WAITING_ACK_WAIT_S)

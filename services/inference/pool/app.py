"""The pool on every node: which subject goes to which handler."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager

from faststream import FastStream
from faststream.nats import JStream, NatsMessage, PullSub
from nats.js.api import ConsumerConfig
from prometheus_client import Counter, Gauge

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.frames import decode
from accelerator_autopilot.contracts.ids import new_id
from accelerator_autopilot.contracts.messages.alerts import Alert
from accelerator_autopilot.contracts.messages.jobs import PRIORITIES
from accelerator_autopilot.contracts.streams import due_durable, durable, job_durable, waiting_durable
from accelerator_autopilot.inference.pool.application.batch_throttling import BatchThrottling
from accelerator_autopilot.inference.pool.application.command_handlers import PoolCommands
from accelerator_autopilot.inference.pool.application.pool_state import PoolState
from accelerator_autopilot.inference.pool.application.queue_maintenance import QueueMaintenance
from accelerator_autopilot.inference.pool.application.stream_usage import StreamUsage
from accelerator_autopilot.inference.pool.application.worker_supervisor import PoolSupervisor
from accelerator_autopilot.inference.settings import PoolSettings
from accelerator_autopilot.runtime.broker import client_of
from accelerator_autopilot.runtime.command_fence import CommandFence
from accelerator_autopilot.runtime.command_memory import BucketMemory
from accelerator_autopilot.runtime.consumers import Watched
from accelerator_autopilot.runtime.leader_election import LeaderElection, leading_token
from accelerator_autopilot.runtime.service import Service
from accelerator_autopilot.runtime.settings import load
from accelerator_autopilot.runtime.shutdown import GRACE_S
from accelerator_autopilot.transport.direct_reads import bucket_items


def create_app(settings: PoolSettings | None = None) -> FastStream:
    """Create the supervisor app of one pool on one node."""
    settings = settings or load(PoolSettings)
    service = Service("pool", settings, grace_s=settings.stop_timeout_s + GRACE_S)
    broker = service.broker
    supervisor = PoolSupervisor(settings, settings.initial_workers)
    kills = Counter(
        "autopilot_pool_workers_killed", "workers killed by the pool, by reason", ["reason"], registry=service.registry
    )
    supervisor.on_killed = lambda reason: kills.labels(reason).inc()
    supervisor.on_poison = Counter(
        "autopilot_pool_messages_poison", "messages that workers could not handle", registry=service.registry
    ).inc
    stuck = Gauge("autopilot_pool_devices_stuck", "devices whose worker hung recently", registry=service.registry)
    stuck.set_function(lambda: len(supervisor.stuck))
    aside = Gauge(
        "autopilot_pool_devices_suspected", "devices suspected because jobs fail on them", registry=service.registry
    )
    aside.set_function(lambda: len(supervisor.set_aside))
    node = subjects.name_part(settings.node)

    memory = PoolState(service.bus, supervisor)
    fence = CommandFence(
        leading=lambda: leading_token(service.bus.js, "scheduler"),
        memory=BucketMemory(service.bus, f"pool.{settings.pool}.{subjects.token(settings.node)}"),
    )
    commands = PoolCommands(supervisor, service.bus.publish_outcome, memory.save_cordons, memory.save_size, fence)
    scale = durable(f"pool-scale-{settings.pool}-{node}", subjects.scale_command(settings.pool))
    batch = durable(f"pool-batch-{settings.pool}-{node}", subjects.batch_command(settings.pool))
    drain = durable(f"pool-drain-{settings.pool}-{node}", subjects.drain_commands(settings.node))
    stream = JStream("COMMANDS", declare=False)
    pull = PullSub(batch_size=1, timeout=10)
    taken: list[tuple[ConsumerConfig, str, Callable[..., Awaitable[None]]]] = [
        (drain, subjects.drain_commands(settings.node), commands.on_drain),
        (batch, subjects.batch_command(settings.pool), commands.on_batch),
    ]
    if not settings.external_scaling:
        taken.append((scale, subjects.scale_command(settings.pool), commands.on_scale))
    for config, subject, handler in taken:
        broker.subscriber(
            subject, stream=stream, durable=config.durable_name, config=config, pull_sub=pull, no_reply=True
        )(handler)

    watch = BatchThrottling(supervisor)

    async def on_frame(message: NatsMessage) -> None:
        watch.on_frame(decode(message.body, message.raw_message.subject))

    async def on_alert(alert: Alert) -> None:
        watch.on_alerts([alert])

    # A reply would be mistaken for the stream's own acknowledgement by the publisher.
    broker.subscriber(subjects.frames(settings.node), no_reply=True)(on_frame)
    broker.subscriber(subjects.alerts_of(settings.node), no_reply=True)(on_alert)

    watched = [Watched("COMMANDS", config) for config, _, _ in taken]
    # The janitor's messages are handled by the pool that holds the leader lease.
    watched += [Watched("JOBS", waiting_durable(), may_wait=True), Watched("LATER", due_durable(), may_wait=True)]
    watched += [
        Watched("JOBS", job_durable(kind, p), may_wait=True) for kind in settings.pool_kinds for p in PRIORITIES
    ]

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        async with service.running(watched) as js:
            await memory.restore()
            leadership = LeaderElection(js, f"{settings.node}-{settings.pool}-{new_id()[:8]}", "queue")
            janitor = QueueMaintenance(
                client_of(broker), js, leadership, service.poison, settings.unrunnable_after_s, memory.status_key
            )
            service.health.report("workers", ok=False, reason="no worker is ready yet")
            service.supervise("workers", supervisor.run)
            service.supervise("pool status", lambda: memory.keep_reporting(service.health))
            service.supervise("queue janitor", janitor.run)
            streams = StreamUsage(js, service.bus, service.registry, lambda: leadership.token is not None)

            async def open_alerts() -> Iterable[Alert]:
                return (await bucket_items(js, "open_alerts", Alert)).values()

            service.supervise("open alerts", lambda: watch.keep_in_step(open_alerts), hang_timeout_s=120.0)
            service.supervise("stream watch", streams.run, hang_timeout_s=120.0)
            yield
            await supervisor.stop()

    return service.app(lifespan)

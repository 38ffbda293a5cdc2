"""The scheduler's application: maps subjects to handlers and starts background tasks."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path

from faststream import FastStream
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from prometheus_client import Counter, Gauge
from pydantic import ValidationError

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.errors import AutopilotError, MalformedMessageError, SettingsError
from accelerator_autopilot.contracts.ids import new_id
from accelerator_autopilot.contracts.message_addressing import check_address
from accelerator_autopilot.contracts.messages.alerts import Alert
from accelerator_autopilot.contracts.messages.commands import DrainCommand, ScaleCommand
from accelerator_autopilot.contracts.streams import durable
from accelerator_autopilot.runtime.broker import client_of
from accelerator_autopilot.runtime.bus import BUS_ERRORS, Bus
from accelerator_autopilot.runtime.consumers import Watched, consume
from accelerator_autopilot.runtime.health import HealthState
from accelerator_autopilot.runtime.leader_election import LeaderElection
from accelerator_autopilot.runtime.service import Service
from accelerator_autopilot.runtime.settings import load
from accelerator_autopilot.runtime.supervision import beat
from accelerator_autopilot.scheduler.adapters.database_history import DatabaseHistory
from accelerator_autopilot.scheduler.adapters.latest_frames import LatestFrames
from accelerator_autopilot.scheduler.adapters.observation_reader import READ_METRICS, FleetReader
from accelerator_autopilot.scheduler.application.autonomy_gate import AutonomyGate
from accelerator_autopilot.scheduler.application.control_loop import ControlLoop
from accelerator_autopilot.scheduler.application.device_controller import DeviceController
from accelerator_autopilot.scheduler.application.observation_snapshot import ObservationSnapshot
from accelerator_autopilot.scheduler.application.policy_evaluation import PolicyEvaluator
from accelerator_autopilot.scheduler.application.pool_controller import PoolController
from accelerator_autopilot.scheduler.application.weekly_report import WeeklyReports
from accelerator_autopilot.scheduler.domain.champion_challenger import ChampionChallenger
from accelerator_autopilot.scheduler.domain.governor import Governor
from accelerator_autopilot.scheduler.domain.latest_readings import LatestReadings
from accelerator_autopilot.scheduler.policies.builtin import policy_maker
from accelerator_autopilot.scheduler.policies.builtin.learned import Learned
from accelerator_autopilot.scheduler.policies.contract import PoolPolicyMaker
from accelerator_autopilot.scheduler.policies.network import load_checkpoint
from accelerator_autopilot.scheduler.policies.shadow_policies import ShadowPolicies
from accelerator_autopilot.scheduler.settings import SchedulerSettings
from accelerator_autopilot.transport.clock import utc_now
from accelerator_autopilot.transport.direct_reads import last_messages

log = logging.getLogger(__name__)

# The first round may show an hour of observations to every policy, and each read may take up to its time limit.
HANG_TIMEOUT_S = 120.0
RESTORED_SCALES = 1_000


def create_app(settings: SchedulerSettings | None = None) -> FastStream:
    """Create the scheduler app; any number may run, one leads."""
    settings = settings or load(SchedulerSettings)
    service = Service("scheduler", settings)
    makers = usable_policies(settings)
    runner = ShadowPolicies(makers, settings.decision_interval_s)
    governor = Governor()
    first = settings.policy_name if settings.policy_name in makers else settings.fallback_policy
    champion_challenger = ChampionChallenger(first, settings.fallback_policy)
    wake = asyncio.Event()
    leading = Gauge("autopilot_scheduler_leading", "1 while this process is the leader", registry=service.registry)
    deciding = Gauge("autopilot_scheduler_policy", "1 for the active policy", ["policy"], registry=service.registry)
    counter = Counter("autopilot_decisions", "decisions by reason", ["reason"], registry=service.registry)
    columns = LatestReadings(READ_METRICS)
    frames = LatestFrames(columns, lambda: utc_now().timestamp(), settings.stale_after_s, service.registry)
    watched = subscribe(service, wake)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        async with service.running(watched) as js:
            reader = FleetReader(js, settings.stale_after_s, frames)
            nc = client_of(service.broker)
            # Raw subscriptions: a framework's overhead per message would exceed the cost of the decisions.
            await nc.subscribe(subjects.FRAMES, cb=frames.take)
            await nc.subscribe(subjects.SCALE_COMMANDS, cb=partial(record_operator_size, governor))
            leadership = LeaderElection(js, f"{settings.node}-{new_id()[:8]}", "scheduler")
            service.supervise("leadership", leadership.run, hang_timeout_s=30.0)
            actor = AutonomyGate(Bus(service.broker, pipelined=True), utc_now, counter)
            decider = ControlLoop(
                reader,
                PoolController(actor, runner, governor, champion_challenger),
                DeviceController(actor, settings.cap_lease_s),
            )
            evaluator: PolicyEvaluator | None = None
            if settings.database_url is not None:
                evaluator = PolicyEvaluator(
                    DatabaseHistory(settings.database_url.get_secret_value()),
                    service.bus,
                    champion_challenger,
                    list(makers),
                    utc_now,
                    lambda: leadership.token is not None,
                    deciding,
                    timedelta(hours=settings.policy_evaluation_interval_h),
                )
                await restore_champion(evaluator)
                service.supervise("policy evaluation", evaluator.run)
                reporting = WeeklyReports(
                    settings.database_url.get_secret_value(),
                    service.bus,
                    js,
                    utc_now,
                    lambda: leadership.token is not None,
                )
                service.supervise("reports", reporting.run)
            observation_store = ObservationSnapshot(js, runner, leadership.name)
            service.supervise("observations", partial(observation_store.run, lambda: leadership.token is not None))
            deciding_for_ever = partial(
                run_decision_loop,
                decider, leadership, partial(restore_state, js, observation_store, governor, evaluator),
                service.health, wake, settings.decision_interval_s, leading,
            )  # fmt: skip
            # Before the first round too, which a collector with default settings would interrupt again and
            # again.
            freeze_gc()
            service.supervise("decisions", deciding_for_ever, hang_timeout_s=HANG_TIMEOUT_S)
            yield
            if leadership.token is not None:
                await observation_store.keep()

    return service.app(lifespan)


def subscribe(service: Service, wake: asyncio.Event) -> list[Watched]:
    """Subscribe to alerts and operator commands; returns the durable consumers to monitor."""

    async def on_alert(alert: Alert) -> None:
        if alert.severity == "critical":
            wake.set()

    async def on_drain(command: DrainCommand) -> None:
        await record_operator_drain(service.bus, command)

    alerts = durable("scheduler-alerts", subjects.ALERTS)
    drains = durable("scheduler-drains", subjects.DRAIN_COMMANDS)
    return [
        consume(service.broker, "ALERTS", subjects.ALERTS, alerts, on_alert),
        consume(service.broker, "COMMANDS", subjects.DRAIN_COMMANDS, drains, on_drain),
    ]


async def record_operator_size(governor: Governor, message: Msg) -> None:
    """Record that an operator set the size of a pool; the scheduler's own commands are ignored."""
    try:
        command = ScaleCommand.model_validate_json(message.data)
        check_address(message.subject, command)
    except (ValidationError, MalformedMessageError) as error:
        log.warning("message dropped", extra={"subject": message.subject[:500], "error": type(error).__name__})
        return
    if command.issuer != "scheduler":
        governor.manual(command.pool, command.at)


async def record_operator_drain(bus: Bus, command: DrainCommand) -> None:
    """Record an operator's last command for a device: it takes precedence over alerts."""
    if command.issuer == "scheduler":
        return
    key = subjects.operator_drain_key(command.node, command.device)
    try:
        before = await bus.read("scheduler", key, DrainCommand)
    except ValidationError:
        before = None
    if before is None or before.at <= command.at:
        await bus.write("scheduler", key, command)


def usable_policies(settings: SchedulerSettings) -> dict[str, PoolPolicyMaker]:
    """Return the policies that can be created; the fall-back policy is required. Raises SettingsError."""
    makers = {name: policy_maker(name) for name in settings.policy_names}
    if settings.policy_file is not None:
        makers["learned"] = lambda: Learned(load_checkpoint(settings.policy_file or Path()))
    usable = {}
    for name, make in makers.items():
        try:
            make()
        except SettingsError as error:
            if name == settings.fallback_policy:
                raise
            log.warning("policy skipped", extra={"policy": name, "reason": str(error)})
            continue
        usable[name] = make
    return usable


def freeze_gc() -> None:
    """Freeze existing objects: they are long-lived, so the collector need not scan code and a large fleet again."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


async def restore_champion(evaluator: PolicyEvaluator) -> None:
    """Restore the previous champion; an unreadable or unknown one is replaced by the first policy."""
    try:
        await evaluator.restore()
    except (AutopilotError, ValidationError) as error:
        log.warning("champion not restored", extra={"reason": str(error)})


async def restore_state(
    js: JetStreamContext,
    observation_store: ObservationSnapshot,
    governor: Governor,
    evaluator: PolicyEvaluator | None = None,
) -> None:
    """Restore what a new leader has not seen: recent observations, the champion, sizes set by operators."""
    await observation_store.restore()
    if evaluator is not None:
        await restore_champion(evaluator)
    for command in await last_messages(js, "COMMANDS", subjects.SCALE_COMMANDS, ScaleCommand, limit=RESTORED_SCALES):
        if command.issuer != "scheduler":
            governor.manual(command.pool, command.at)


async def run_decision_loop(
    decider: ControlLoop,
    leadership: LeaderElection,
    recall_past: Callable[[], Awaitable[None]],
    health: HealthState,
    wake: asyncio.Event,
    period_s: float,
    leading: Gauge,
) -> None:
    """Decide every period, and immediately when woken, while this process leads."""
    led_with: int | None = None
    settled = False
    while True:
        beat()
        token = leadership.token
        leading.set(1 if token else 0)
        if token:
            try:
                if token != led_with:
                    await recall_past()
                    led_with = token
                await decider.decide(token)
                if not settled:
                    freeze_gc()
                    settled = True
                health.report("deciding", ok=True)
            except Exception as error:
                health.report("deciding", ok=False, reason=f"{type(error).__name__}: {error}")
                expected = isinstance(error, (AutopilotError, TimeoutError, *BUS_ERRORS))
                log.warning("round failed", extra={"error": type(error).__name__}, exc_info=not expected)
        with suppress(TimeoutError):
            async with asyncio.timeout(period_s):
                await wake.wait()
        wake.clear()

"""The agent on every node: which subject goes to which handler."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from faststream import FastStream
from faststream.nats import KvWatch

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.streams import durable
from accelerator_autopilot.runtime.command_fence import CommandFence
from accelerator_autopilot.runtime.consumers import consume
from accelerator_autopilot.runtime.leader_election import leading_token
from accelerator_autopilot.runtime.service import Service
from accelerator_autopilot.runtime.settings import load
from accelerator_autopilot.telemetry.agent.adapters.agent_state import AgentState, StateFile
from accelerator_autopilot.telemetry.agent.adapters.boot_identity import boot_id
from accelerator_autopilot.telemetry.agent.adapters.command_file import CommandFile
from accelerator_autopilot.telemetry.agent.adapters.exporter_source import ExporterSource
from accelerator_autopilot.telemetry.agent.adapters.kernel_log import KernelLog
from accelerator_autopilot.telemetry.agent.adapters.power_cap_file import PowerCapFile
from accelerator_autopilot.telemetry.agent.adapters.power_privilege import may_control_power
from accelerator_autopilot.telemetry.agent.adapters.scrape_metrics import PageCollector
from accelerator_autopilot.telemetry.agent.adapters.source_discovery import make_sources
from accelerator_autopilot.telemetry.agent.adapters.threaded_source import ThreadedSource
from accelerator_autopilot.telemetry.agent.application.command_handlers import PowerCommands, Simulation
from accelerator_autopilot.telemetry.agent.application.inventory_publisher import InventoryPublisher
from accelerator_autopilot.telemetry.agent.application.lease_expiry import LeaseExpiry
from accelerator_autopilot.telemetry.agent.application.power_control import PowerControl
from accelerator_autopilot.telemetry.agent.application.sampling import Sampler
from accelerator_autopilot.telemetry.agent.domain.device_resets import ResetWatch
from accelerator_autopilot.telemetry.agent.domain.publish_buffer import FrameBuffer
from accelerator_autopilot.telemetry.agent.ports import SimulatedDevices
from accelerator_autopilot.telemetry.device_metrics.export import start_device_export
from accelerator_autopilot.telemetry.settings import AgentSettings

log = logging.getLogger(__name__)

# Longer than any driver call may take: a loop that stalls this long is restarted.
HANG_TIMEOUT_S = 60.0
GIVE_BACK_S = 10.0


def create_agent(settings: AgentSettings | None = None) -> FastStream:
    """Create the agent app: it samples this node's devices and applies power commands."""
    settings = settings or load(AgentSettings)
    service = Service("agent", settings)
    broker = service.broker
    sources = [ThreadedSource(source, settings.source_timeout_s) for source in make_sources(settings)]

    state_file = StateFile(settings.data_dir / f"agent-{subjects.name_part(settings.node)}.json")
    state = state_file.load()
    latest = start_device_export(service, settings)
    pages = [guard.source for guard in sources if isinstance(guard.source, ExporterSource)]
    service.registry.register(PageCollector(pages))
    sampler = Sampler(
        node=settings.node,
        period_s=settings.period_s,
        sources=sources,
        publish=service.bus.publish,
        put_inventory=InventoryPublisher(service.bus, service.health).put,
        health=service.health,
        buffer=FrameBuffer(settings.frame_buffer),
        latest=latest,
        privileged=may_control_power(),
        inventory_period_s=settings.inventory_period_s,
        expected_devices=settings.expected_devices,
        resets=ResetWatch.after(boot_id(), state.boot_id, state.epochs),
    )
    save = load_state(sampler, settings, state_file, state)
    sampler.on_all_published = save
    power = PowerControl(
        settings.node,
        sampler.find,
        PowerCapFile(settings.data_dir / f"caps-{subjects.name_part(settings.node)}.json"),
        devices=lambda: list(sampler.devices),
    )
    lease_expiry = LeaseExpiry(power, service.bus.publish_outcome)
    fence = CommandFence(
        leading=lambda: leading_token(service.bus.js, "scheduler"),
        memory=CommandFile(settings.data_dir / f"commands-{subjects.name_part(settings.node)}.json"),
    )
    commands = PowerCommands(power, service.bus.policy, service.bus.publish_outcome, fence)

    consumer = durable(f"agent-power-{subjects.name_part(settings.node)}", subjects.power_commands(settings.node))
    subject = subjects.power_commands(settings.node)
    watched = consume(broker, "COMMANDS", subject, consumer, commands.on_command)
    for source in sources:
        if isinstance(source.source, SimulatedDevices):
            simulation = Simulation(settings.node, source.source)
            broker.subscriber(subjects.simulate(settings.node))(simulation.on_request)
            broker.subscriber(">", kv_watch=KvWatch("pools", declare=False), no_reply=True)(simulation.on_pool)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        # Caps of the previous run are restored whether or not there is a broker, and ours at shutdown.
        await sampler.discover_devices()
        await power.restore_all()
        service.supervise("devices", sampler.keep_discovering, hang_timeout_s=HANG_TIMEOUT_S)
        service.supervise("power leases", lease_expiry.run, hang_timeout_s=HANG_TIMEOUT_S)
        try:
            async with service.running([watched]):
                await sampler.publish_inventory()
                service.supervise("sampling", sampler.run, hang_timeout_s=HANG_TIMEOUT_S)
                service.supervise("publishing", sampler.run_publisher)
                service.supervise("power outcomes", lease_expiry.run_publisher)
                yield
        finally:
            await give_back(power)
            save()

    return service.app(lifespan)


async def give_back(power: PowerControl) -> None:
    """Restore every device at shutdown; the next run restores what a driver does not accept in time."""
    try:
        async with asyncio.timeout(GIVE_BACK_S):
            await power.close()
    except TimeoutError:
        log.critical("a driver did not restore caps in time; the next run will retry")


def load_state(sampler: Sampler, settings: AgentSettings, file: StateFile, state: AgentState) -> Callable[[], None]:
    """Load the state of the previous run; returns a function that saves this run's."""
    sampler.addresses |= state.addresses
    boot = sampler.resets.boot_id
    same = state.boot_id == boot
    kernel: KernelLog | None = None
    if settings.kernel_log:
        reported = state.kernel_sequence if same else -1
        kernel = KernelLog(sampler.device_at, reported=reported, whole=bool(state.boot_id) and not same, boot_id=boot)
        sampler.extra_events = kernel.poll

    def save() -> None:
        sequence = kernel.sequence if kernel is not None else -1
        file.save(AgentState(boot, dict(sampler.resets.epochs), sequence, dict(sampler.addresses)))

    return save

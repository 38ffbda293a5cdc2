"""The agent on every node: which subject goes to which function."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from faststream import FastStream
from faststream.nats import JStream, KvWatch, PullSub

from services.telemetry.adapters.cap_file import CapFile
from services.telemetry.adapters.guarded import GuardedSource
from services.telemetry.adapters.kernel_log import KernelLog
from services.telemetry.adapters.privilege import may_control_power
from services.telemetry.adapters.sources import make_sources
from services.telemetry.domain.frame_buffer import FrameBuffer
from services.telemetry.handlers import PowerCommands, Simulation
from services.telemetry.inventory_board import InventoryBoard
from services.telemetry.ports import SimulatedDevices
from services.telemetry.power import PowerControl
from services.telemetry.sampling import Sampler
from services.telemetry.settings import AgentSettings
from services.telemetry.telling import tell_devices
from shared import subjects
from shared.bus import Bus
from shared.clock import utc_now
from shared.consuming import Watched
from shared.errors import UnavailableError
from shared.service import Service
from shared.settings import load
from shared.streams import durable

log = logging.getLogger(__name__)

REASSERT_PERIOD_S = 15.0


def create_agent(settings: AgentSettings | None = None) -> FastStream:
    """The agent: samples this node's devices and carries out power commands."""
    settings = settings or load(AgentSettings)
    service = Service("agent", settings)
    broker = service.broker
    sources = [GuardedSource(source, settings.source_timeout_s) for source in make_sources(settings)]

    latest = tell_devices(service, settings)
    sampler = Sampler(
        node=settings.node,
        period_s=settings.period_s,
        sources=sources,
        publish=service.bus.publish,
        put_inventory=InventoryBoard(service.bus, service.health).put,
        health=service.health,
        buffer=FrameBuffer(settings.frame_buffer),
        latest=latest,
        privileged=may_control_power(),
        inventory_period_s=settings.inventory_period_s,
    )
    if settings.kernel_log:
        sampler.extra_events = KernelLog(sampler.device_at).poll
    power = PowerControl(
        settings.node, sampler.find, CapFile(settings.data_dir / f"caps-{subjects.name_part(settings.node)}.json")
    )
    commands = PowerCommands(power, service.bus.policy, service.bus.publish_outcome)

    consumer = durable(f"agent-power-{subjects.name_part(settings.node)}", subjects.power_commands(settings.node))
    broker.subscriber(
        subjects.power_commands(settings.node),
        stream=JStream("COMMANDS", declare=False),
        durable=consumer.durable_name,
        config=consumer,
        pull_sub=PullSub(batch_size=1, timeout=10),
        no_reply=True,
    )(commands.on_command)
    for source in sources:
        if isinstance(source.source, SimulatedDevices):
            simulation = Simulation(settings.node, source.source)
            broker.subscriber(subjects.simulate(settings.node))(simulation.on_request)
            broker.subscriber(">", kv_watch=KvWatch("pools", declare=False), no_reply=True)(simulation.on_pool)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        async with service.running([Watched("COMMANDS", consumer)]):
            await sampler.discover()
            await power.restore_all()
            for work in (sampler.run(), sampler.run_publisher(), restore_expired(power, service.bus)):
                service.spawn(work)
            yield
            await power.restore_all()

    return service.app(lifespan)


async def restore_expired(power: PowerControl, bus: Bus) -> None:
    """Restore the default of devices whose lease ran out, and hold the others to theirs, until cancelled."""
    loop = asyncio.get_running_loop()
    checked = loop.time()
    while True:
        if loop.time() - checked > REASSERT_PERIOD_S:
            checked = loop.time()
            await power.reassert()
        for outcome in await power.restore_expired(utc_now()):
            try:
                await bus.publish_outcome(outcome)
            except UnavailableError as error:
                log.warning("outcome not told", extra={"error": str(error)})
        await asyncio.sleep(0.5)

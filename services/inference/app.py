"""The pool on every node: which subject goes to which function."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import nats.errors
from faststream import FastStream
from faststream.nats import JStream, PullSub
from nats.js import JetStreamContext
from nats.js.errors import KeyNotFoundError
from pydantic import ValidationError

from services.inference.handlers import PoolCommands
from services.inference.settings import PoolSettings
from services.inference.supervisor import PoolSupervisor
from shared import subjects
from shared.broker import client_of
from shared.consuming import Watched
from shared.messages.commands import CommandOutcome
from shared.messages.jobs import PRIORITIES, PoolStatus
from shared.messages.telemetry import NodeInventory
from shared.service import Service
from shared.settings import load
from shared.streams import durable, job_durable

log = logging.getLogger(__name__)

STATUS_PERIOD_S = 0.5


def create_app(settings: PoolSettings | None = None) -> FastStream:
    """The supervisor of one pool on one node."""
    settings = settings or load(PoolSettings)
    service = Service("pool", settings)
    broker = service.broker
    supervisor = PoolSupervisor(settings, settings.pool_initial)
    node = subjects.token(settings.node)
    status_key = f"{settings.pool}.{node}"

    def js() -> JetStreamContext:
        return client_of(broker).jetstream(timeout=5.0)

    async def publish_outcome(outcome: CommandOutcome) -> None:
        await js().publish(
            subjects.outcome(outcome.command_id), outcome.model_dump_json().encode(), headers={"Nats-Msg-Id": outcome.id}
        )

    async def save_cordons(devices: set[str]) -> None:
        kv = await js().key_value("cordons")
        await kv.put(node, json.dumps(sorted(devices)).encode())

    async def recall(js: JetStreamContext) -> None:
        """Go on as before a restart: the wanted size and the cordoned devices."""
        try:
            kept = PoolStatus.model_validate_json((await (await js.key_value("pools")).get(status_key)).value or b"")
            supervisor.desired, supervisor.restarts = kept.desired, kept.restarts
        except (KeyNotFoundError, ValidationError):
            pass
        try:
            supervisor.cordoned = set(json.loads((await (await js.key_value("cordons")).get(node)).value or b"[]"))
        except (KeyNotFoundError, ValueError):
            pass

    async def read_inventory() -> None:
        entry = await (await js().key_value("inventory")).get(node)
        devices = NodeInventory.model_validate_json(entry.value or b"").devices
        # A CPU works only where there is no accelerator beside it.
        supervisor.devices = [d for d in devices if d.source != "cpu"] or devices
        service.health.report("devices", ok=bool(devices), reason="no device on this node")

    async def report() -> None:
        while True:
            try:
                await read_inventory()
                kv = await js().key_value("pools")
                await kv.put(status_key, supervisor.status().model_dump_json().encode())
            except KeyNotFoundError:
                service.health.report("devices", ok=False, reason="the agent has published no inventory yet")
            except (nats.errors.Error, ValidationError, OSError) as error:
                log.info("status not published", extra={"error": type(error).__name__})
            ready = sum(w.state == "ready" for w in supervisor.status().workers)
            enough = ready > 0 or supervisor.desired == 0 or not set(d.device for d in supervisor.devices) - supervisor.cordoned
            service.health.report("workers", ok=enough, reason="no worker is ready yet", max_age_s=10.0)
            await asyncio.sleep(STATUS_PERIOD_S)

    commands = PoolCommands(supervisor, publish_outcome, save_cordons)
    scale = durable(f"pool-scale-{settings.pool}-{node}", subjects.scale_command(settings.pool))
    drain = durable(f"pool-drain-{settings.pool}-{node}", subjects.drain_commands(settings.node))
    stream = JStream("COMMANDS", declare=False)
    pull = PullSub(batch_size=1, timeout=10)
    for config, subject, handler in (
        (scale, subjects.scale_command(settings.pool), commands.on_scale),
        (drain, subjects.drain_commands(settings.node), commands.on_drain),
    ):
        broker.subscriber(
            subject, stream=stream, durable=config.durable_name, config=config, pull_sub=pull, no_reply=True
        )(handler)

    watched = [Watched("COMMANDS", scale), Watched("COMMANDS", drain)]
    watched += [Watched("JOBS", job_durable(kind, p)) for kind in settings.pool_kinds for p in PRIORITIES]

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        async with service.running(watched) as js:
            await recall(js)
            service.spawn(supervisor.run())
            service.spawn(report())
            yield
            await supervisor.stop()

    return service.app(lifespan)

"""Provide the scheduler's decisions to KEDA: python -m accelerator_autopilot.scheduler keda."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from faststream import FastStream

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.messages.commands import ScaleCommand
from accelerator_autopilot.runtime.service import Service
from accelerator_autopilot.runtime.settings import load
from accelerator_autopilot.scheduler.executors.keda_scaler import ExternalScaler, serve
from accelerator_autopilot.scheduler.settings import KedaSettings
from accelerator_autopilot.transport.direct_reads import last_messages

log = logging.getLogger(__name__)


def create_keda(settings: KedaSettings | None = None) -> FastStream:
    """Create the KEDA app; any number may run, since each follows every command."""
    settings = settings or load(KedaSettings)
    service = Service("keda", settings)
    wanted: dict[str, int] = {}

    async def on_scale(command: ScaleCommand) -> None:
        wanted[command.pool] = command.replicas

    service.broker.subscriber(subjects.SCALE_COMMANDS, no_reply=True)(on_scale)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        async with service.running() as js:
            for command in await last_messages(js, "COMMANDS", subjects.SCALE_COMMANDS, ScaleCommand, limit=1000):
                wanted.setdefault(command.pool, 0)
                wanted[command.pool] = command.replicas
            server, port = serve(ExternalScaler(wanted), settings.keda_address)
            await server.start()
            log.info("external scaler", extra={"port": port})
            yield
            await server.stop(grace=2.0)

    return service.app(lifespan)

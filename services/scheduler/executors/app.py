"""Apply scale commands to an orchestrator and report what was read back.

`python -m accelerator_autopilot.scheduler executor`
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from faststream import FastStream

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.ids import new_id
from accelerator_autopilot.contracts.messages.commands import CommandOutcome, ScaleCommand
from accelerator_autopilot.contracts.streams import durable
from accelerator_autopilot.runtime.command_fence import CommandFence, Status
from accelerator_autopilot.runtime.command_memory import BucketMemory
from accelerator_autopilot.runtime.consumers import consume
from accelerator_autopilot.runtime.leader_election import leading_token
from accelerator_autopilot.runtime.service import Service
from accelerator_autopilot.runtime.settings import load
from accelerator_autopilot.scheduler.executors.ports import ExecutorError, PoolExecutor
from accelerator_autopilot.scheduler.settings import ExecutorSettings
from accelerator_autopilot.transport.clock import utc_now

log = logging.getLogger(__name__)


async def connect(settings: ExecutorSettings) -> PoolExecutor:
    """Connect to the configured orchestrator. Raises ExecutorError."""
    if settings.orchestrator == "kubernetes":
        from accelerator_autopilot.scheduler.executors.kubernetes import KubernetesExecutor  # noqa: PLC0415  optional

        return await KubernetesExecutor.connect(
            settings.kubernetes_namespace, settings.pool_label, settings.kubernetes_config
        )
    from accelerator_autopilot.scheduler.executors.docker import DockerExecutor  # noqa: PLC0415  optional

    return await DockerExecutor.connect(settings.pool_label)


class ScaleCommands:
    """Runs each command once, and none that expired or came from a former leader."""

    def __init__(self, executor: PoolExecutor, fence: CommandFence | None = None) -> None:
        self._executor = executor
        self._fence = fence or CommandFence()

    async def carry_out(self, command: ScaleCommand) -> CommandOutcome:
        """Run a command; returns the outcome. Raises UnavailableError when the leader cannot be determined."""
        outcome = CommandOutcome(
            id=new_id(),
            command_id=command.id,
            command="scale",
            target=command.pool,
            status="refused",
            requested=float(command.replicas),
            at=utc_now(),
            executor="executor",
            **command.owner,
        )

        async def act() -> CommandOutcome:
            return await self._scale(command, outcome)

        def turn_away(status: Status, detail: str) -> CommandOutcome:
            return outcome.model_copy(update={"status": status, "detail": detail})

        return await self._fence.carry_out(command, utc_now(), act, turn_away)

    async def _scale(self, command: ScaleCommand, outcome: CommandOutcome) -> CommandOutcome:
        try:
            read_back = await self._executor.scale(command.pool, command.replicas)
        except ExecutorError as error:
            log.warning("scale failed", extra={"pool": command.pool, "error": str(error)})
            return outcome.model_copy(update={"detail": str(error)})
        return outcome.model_copy(
            update={"status": "applied", "applied": float(command.replicas), "read_back": float(read_back)}
        )


def create_executor(settings: ExecutorSettings | None = None, executor: PoolExecutor | None = None) -> FastStream:
    """Create the executor app; run one per cluster or host."""
    settings = settings or load(ExecutorSettings)
    service = Service("executor", settings)
    commands: ScaleCommands | None = None
    # Its name from earlier versions: under a new one, old commands would be delivered again.
    scale = durable("hands-scale", subjects.SCALE_COMMANDS)

    async def on_scale(command: ScaleCommand) -> None:
        if commands is not None:
            await service.bus.publish_outcome(await commands.carry_out(command))

    watched = consume(service.broker, "COMMANDS", subjects.SCALE_COMMANDS, scale, on_scale)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        nonlocal commands
        its = executor or await connect(settings)
        fence = CommandFence(
            leading=lambda: leading_token(service.bus.js, "scheduler"), memory=BucketMemory(service.bus, "orchestrator")
        )
        commands = ScaleCommands(its, fence)
        async with service.running([watched]):
            yield
        await its.close()

    return service.app(lifespan)

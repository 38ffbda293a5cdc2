"""Carries scale commands out on an orchestrator and tells what was read back: python -m services.scheduler hands."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from faststream import FastStream

from services.scheduler.hands.ports import Hands, HandsError
from services.scheduler.settings import HandsSettings
from shared import subjects
from shared.clock import utc_now
from shared.consuming import consume
from shared.fence import Fence, Status
from shared.ids import new_id
from shared.leader import leading_token
from shared.messages.commands import CommandOutcome, ScaleCommand
from shared.service import Service
from shared.settings import load
from shared.streams import durable

log = logging.getLogger(__name__)


async def connect(settings: HandsSettings) -> Hands:
    """The orchestrator that the settings name. Raises HandsError."""
    if settings.orchestrator == "kubernetes":
        from services.scheduler.hands.kubernetes import KubernetesHands  # noqa: PLC0415  optional

        return await KubernetesHands.connect(
            settings.kubernetes_namespace, settings.pool_label, settings.kubernetes_config
        )
    from services.scheduler.hands.docker import DockerHands  # noqa: PLC0415  optional

    return await DockerHands.connect(settings.pool_label)


class ScaleCommands:
    """Each command once, none that is too old or from a scheduler that no longer leads."""

    def __init__(self, hands: Hands, fence: Fence | None = None) -> None:
        self._hands = hands
        self._fence = fence or Fence()

    async def carry_out(self, command: ScaleCommand) -> CommandOutcome:
        """What became of it. Raises UnavailableError when nobody can say now who leads."""
        outcome = CommandOutcome(
            id=new_id(),
            command_id=command.id,
            command="scale",
            target=command.pool,
            status="refused",
            requested=float(command.replicas),
            at=utc_now(),
            executor="hands",
        )

        async def act() -> CommandOutcome:
            return await self._scale(command, outcome)

        def turn_away(status: Status, detail: str) -> CommandOutcome:
            return outcome.model_copy(update={"status": status, "detail": detail})

        return await self._fence.carry_out(command, utc_now(), act, turn_away)

    async def _scale(self, command: ScaleCommand, outcome: CommandOutcome) -> CommandOutcome:
        try:
            read_back = await self._hands.scale(command.pool, command.replicas)
        except HandsError as error:
            log.warning("scale refused", extra={"pool": command.pool, "error": str(error)})
            return outcome.model_copy(update={"detail": str(error)})
        return outcome.model_copy(
            update={"status": "applied", "applied": float(command.replicas), "read_back": float(read_back)}
        )


def create_hands(settings: HandsSettings | None = None, hands: Hands | None = None) -> FastStream:
    """One process a cluster or host."""
    settings = settings or load(HandsSettings)
    service = Service("hands", settings)
    commands: ScaleCommands | None = None
    scale = durable("hands-scale", subjects.SCALE_COMMANDS)

    async def on_scale(command: ScaleCommand) -> None:
        if commands is not None:
            await service.bus.publish_outcome(await commands.carry_out(command))

    watched = consume(service.broker, "COMMANDS", subjects.SCALE_COMMANDS, scale, on_scale)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        nonlocal commands
        its = hands or await connect(settings)
        commands = ScaleCommands(its, Fence(leading=lambda: leading_token(service.bus.js, "scheduler")))
        async with service.running([watched]):
            yield
        await its.close()

    return service.app(lifespan)

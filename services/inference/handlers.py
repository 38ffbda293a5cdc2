"""What a pool does with each command."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal

from services.inference.supervisor import PoolSupervisor
from shared.clock import utc_now
from shared.fence import Fence, Status
from shared.ids import new_id
from shared.messages.commands import Command, CommandOutcome, DrainCommand, ScaleCommand


@dataclass
class PoolCommands:
    """Scale and drain commands to this pool."""

    supervisor: PoolSupervisor
    publish_outcome: Callable[[CommandOutcome], Awaitable[None]]
    save_cordons: Callable[[set[str]], Awaitable[None]]
    fence: Fence = field(default_factory=Fence)

    async def on_scale(self, command: ScaleCommand) -> None:
        """Set the wanted number of workers."""
        status, detail = self.fence.judge(command, utc_now())
        if status == "applied":
            here = (command.nodes or {}).get(self.supervisor.settings.node, 0)
            self.supervisor.desired = command.replicas if command.nodes is None else here
        await self._tell(command, "scale", command.pool, status, detail, requested=float(command.replicas))

    async def on_drain(self, command: DrainCommand) -> None:
        """Take a device out of service or back; its workers finish what they run."""
        status, detail = self.fence.judge(command, utc_now())
        if status == "applied":
            if command.action == "restore":
                self.supervisor.cordoned.discard(command.device)
            else:
                self.supervisor.cordoned.add(command.device)
            await self.save_cordons(self.supervisor.cordoned)
            detail = f"{command.action}: cordoned now {', '.join(sorted(self.supervisor.cordoned)) or 'none'}"
        await self._tell(command, "drain", f"{command.node}/{command.device}", status, detail)

    async def _tell(
        self,
        command: Command,
        kind: Literal["scale", "drain"],
        target: str,
        status: Status,
        detail: str,
        *,
        requested: float | None = None,
    ) -> None:
        desired = float(self.supervisor.desired) if kind == "scale" else None
        await self.publish_outcome(
            CommandOutcome(
                id=new_id(),
                command_id=command.id,
                command=kind,
                target=target,
                status=status,
                detail=detail,
                requested=requested,
                applied=requested if status == "applied" else None,
                read_back=desired,
                at=utc_now(),
                executor=f"pool-{self.supervisor.settings.pool}",
            )
        )

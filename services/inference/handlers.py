"""What a pool does with each command."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal

from services.inference.supervisor import PoolSupervisor
from shared.clock import utc_now
from shared.fence import Fence, Status
from shared.ids import new_id
from shared.messages.commands import AnyCommand, BatchCommand, CommandOutcome, DrainCommand, ScaleCommand


@dataclass
class PoolCommands:
    """Scale, drain and batch commands to this pool."""

    supervisor: PoolSupervisor
    publish_outcome: Callable[[CommandOutcome], Awaitable[None]]
    save_cordons: Callable[[set[str]], Awaitable[None]]
    fence: Fence = field(default_factory=Fence)

    async def on_scale(self, command: ScaleCommand) -> None:
        """Set the wanted number of workers."""
        status, detail = self.fence.judge(command, utc_now())
        node = self.supervisor.settings.node
        if status == "applied" and command.nodes is not None and node not in command.nodes:
            # Who decided did not see this part: it holds, as everybody does who lacks data.
            status, detail = "refused", f"names no share for node {node}, which keeps {self.supervisor.desired}"
        elif status == "applied":
            self.supervisor.desired = command.replicas if command.nodes is None else command.nodes[node]
        await self._tell(command, "scale", status, detail, requested=float(command.replicas))

    async def on_drain(self, command: DrainCommand) -> None:
        """Take a device out of service or back; its workers finish what they run."""
        status, detail = self.fence.judge(command, utc_now())
        if status == "applied":
            if command.action == "restore":
                self.supervisor.restore(command.device)
            else:
                self.supervisor.cordoned.add(command.device)
            await self.save_cordons(self.supervisor.cordoned)
            detail = f"{command.action}: cordoned now {', '.join(sorted(self.supervisor.cordoned)) or 'none'}"
        await self._tell(command, "drain", status, detail)

    async def on_batch(self, command: BatchCommand) -> None:
        """Let jobs wait for company."""
        status, detail = self.fence.judge(command, utc_now())
        if status == "applied":
            self.supervisor.let_jobs_wait(command.delay_s, command.lease_s)
        await self._tell(command, "batch", status, detail, requested=command.delay_s)

    async def _tell(
        self,
        command: AnyCommand,
        kind: Literal["scale", "drain", "batch"],
        status: Status,
        detail: str,
        *,
        requested: float | None = None,
    ) -> None:
        now = {"scale": float(self.supervisor.desired), "batch": self.supervisor.batch_delay.seconds}
        await self.publish_outcome(
            CommandOutcome(
                id=new_id(),
                command_id=command.id,
                command=kind,
                target=command.target,
                status=status,
                detail=detail,
                requested=requested,
                applied=requested if status == "applied" else None,
                read_back=now.get(kind),
                at=utc_now(),
                executor=f"pool-{self.supervisor.settings.pool}",
            )
        )

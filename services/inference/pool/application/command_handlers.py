"""How a pool handles each command."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal

from accelerator_autopilot.contracts.ids import new_id
from accelerator_autopilot.contracts.messages.commands import (
    AnyCommand,
    BatchCommand,
    CommandOutcome,
    DrainCommand,
    ScaleCommand,
)
from accelerator_autopilot.inference.pool.application.worker_supervisor import PoolSupervisor
from accelerator_autopilot.runtime.command_fence import CommandFence, Status
from accelerator_autopilot.transport.clock import utc_now

Kind = Literal["scale", "drain", "batch"]
Did = tuple[Status, str]


@dataclass
class PoolCommands:
    """Scale, drain and batch commands to this pool."""

    supervisor: PoolSupervisor
    publish_outcome: Callable[[CommandOutcome], Awaitable[None]]
    save_cordons: Callable[[set[str]], Awaitable[None]]
    save_size: Callable[[], Awaitable[None]]
    fence: CommandFence = field(default_factory=CommandFence)

    async def on_scale(self, command: ScaleCommand) -> None:
        """Set the desired number of workers."""

        async def act() -> Did:
            node = self.supervisor.settings.node
            if command.nodes is not None and node not in command.nodes:
                # The scheduler had no status of this node, so it keeps its size, as for any missing
                # data.
                return "refused", f"names no share for node {node}, which keeps {self.supervisor.desired}"
            self.supervisor.desired = command.replicas if command.nodes is None else command.nodes[node]
            # Once reported as applied, the size must survive a crash.
            await self.save_size()
            return "applied", ""

        await self._carry_out(command, "scale", act, requested=float(command.replicas))

    async def on_drain(self, command: DrainCommand) -> None:
        """Take a device out of service or back; its workers finish running jobs first."""

        async def act() -> Did:
            if command.action == "restore":
                self.supervisor.restore(command.device)
            else:
                self.supervisor.cordoned.add(command.device)
            await self.save_cordons(self.supervisor.cordoned)
            return "applied", f"{command.action}: cordoned now {', '.join(sorted(self.supervisor.cordoned)) or 'none'}"

        await self._carry_out(command, "drain", act)

    async def on_batch(self, command: BatchCommand) -> None:
        """Set how long jobs wait for a fuller batch."""

        async def act() -> Did:
            self.supervisor.set_batch_delay(command.delay_s, command.lease_s)
            return "applied", ""

        await self._carry_out(command, "batch", act, requested=command.delay_s)

    async def _carry_out(
        self, command: AnyCommand, kind: Kind, act: Callable[[], Awaitable[Did]], *, requested: float | None = None
    ) -> None:
        """Run the command once, if the fence allows it, and publish the outcome; repeats republish the outcome."""

        async def apply() -> CommandOutcome:
            return self._outcome(command, kind, *await act(), requested)

        def turn_away(status: Status, detail: str) -> CommandOutcome:
            return self._outcome(command, kind, status, detail, requested)

        await self.publish_outcome(await self.fence.carry_out(command, utc_now(), apply, turn_away))

    def _outcome(
        self, command: AnyCommand, kind: Kind, status: Status, detail: str, requested: float | None
    ) -> CommandOutcome:
        now = {"scale": float(self.supervisor.desired), "batch": self.supervisor.batch_delay.seconds}
        return CommandOutcome(
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
            **command.owner,
        )

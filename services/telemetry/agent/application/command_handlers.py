"""How the agent handles each message."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from accelerator_autopilot.contracts.ids import new_id
from accelerator_autopilot.contracts.messages.commands import CommandOutcome, FleetPolicy, PowerCommand
from accelerator_autopilot.contracts.messages.jobs import PoolStatus
from accelerator_autopilot.contracts.messages.telemetry import SimulationReply, SimulationRequest
from accelerator_autopilot.runtime.command_fence import CommandFence, Status
from accelerator_autopilot.telemetry.agent.application.power_control import PowerControl
from accelerator_autopilot.telemetry.agent.ports import SimulatedDevices
from accelerator_autopilot.transport.clock import utc_now


@dataclass
class PowerCommands:
    """Power commands to this node."""

    power: PowerControl
    read_policy: Callable[[], Awaitable[FleetPolicy]]
    publish_outcome: Callable[[CommandOutcome], Awaitable[None]]
    fence: CommandFence = field(default_factory=CommandFence)

    async def on_command(self, command: PowerCommand) -> None:
        """Apply a command and publish the outcome; a repeated command only republishes its outcome."""

        async def act() -> CommandOutcome:
            return await self.power.carry_out(command, await self.read_policy())

        def turn_away(status: Status, detail: str) -> CommandOutcome:
            return CommandOutcome(
                id=new_id(),
                command_id=command.id,
                command="power",
                target=command.target,
                status=status,
                detail=detail,
                requested=command.cap_w,
                at=utc_now(),
                executor="agent",
                **command.owner,
            )

        await self.publish_outcome(await self.fence.carry_out(command, self.power.clock(), act, turn_away))


@dataclass
class Simulation:
    """Requests to the simulated devices, and the load that workers put on them."""

    node: str
    source: SimulatedDevices
    _busy: dict[str, tuple[float, float]] = field(default_factory=dict)

    async def on_request(self, request: SimulationRequest) -> SimulationReply:
        """Handle a request."""
        problem = self.source.request(request)
        return SimulationReply(ok=not problem, error=problem)

    async def on_pool(self, status: PoolStatus) -> None:
        """Derive each device's load from the busy time of its workers."""
        if status.node != self.node:
            return
        now = status.at.timestamp()
        load: dict[str, float] = {}
        for worker in status.workers:
            before_at, before_busy = self._busy.get(worker.worker, (now - 1.0, worker.busy_s))
            if now > before_at:
                busy = (worker.busy_s - before_busy) / (now - before_at)
                load[worker.device] = load.get(worker.device, 0.0) + busy
            self._busy[worker.worker] = (now, worker.busy_s)
        alive = {worker.worker for worker in status.workers}
        self._busy = {worker: seen for worker, seen in self._busy.items() if worker in alive}
        for info in self.source.discover():
            self.source.set_load(info.device, load.get(info.device, 0.0))

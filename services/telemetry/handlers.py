"""What the agent does with each message."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from services.telemetry.ports import SimulatedDevices
from services.telemetry.power import PowerControl
from shared.messages.commands import CommandOutcome, FleetPolicy, PowerCommand
from shared.messages.jobs import PoolStatus
from shared.messages.telemetry import SimulationReply, SimulationRequest

MOST_REMEMBERED = 1000


@dataclass
class PowerCommands:
    """Power commands to this node."""

    power: PowerControl
    read_policy: Callable[[], Awaitable[FleetPolicy]]
    publish_outcome: Callable[[CommandOutcome], Awaitable[None]]
    _outcomes: OrderedDict[str, CommandOutcome] = field(default_factory=OrderedDict)

    async def on_command(self, command: PowerCommand) -> None:
        """Carry out a command and tell the outcome; one that comes again is told of again, not carried out again."""
        outcome = self._outcomes.get(command.id)
        if outcome is None:
            outcome = await self.power.carry_out(command, await self.read_policy())
            self._outcomes[command.id] = outcome
            while len(self._outcomes) > MOST_REMEMBERED:
                self._outcomes.popitem(last=False)
        await self.publish_outcome(outcome)


@dataclass
class Simulation:
    """Requests to the simulated devices, and the load that workers put on them."""

    node: str
    source: SimulatedDevices
    _busy: dict[str, tuple[float, float]] = field(default_factory=dict)

    async def on_request(self, request: SimulationRequest) -> SimulationReply:
        """Carry out a request."""
        problem = self.source.request(request)
        return SimulationReply(ok=not problem, error=problem)

    async def on_pool(self, status: PoolStatus) -> None:
        """Derive each device's load from the time that its workers were busy."""
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

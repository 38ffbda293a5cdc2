"""The newest commands that an executor without a disk of its own carried out, kept on the bus."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel

from accelerator_autopilot.runtime.bus import Bus
from accelerator_autopilot.runtime.command_fence import CarriedOut

BUCKET = "carried_out"


class NewestCommands(BaseModel):
    """What the bucket holds for one executor, by kind of command and target."""

    newest: dict[str, CarriedOut]


@dataclass
class BucketMemory:
    """One key of the bucket. What cannot be read now is asked for again; what is unreadable counts as none."""

    bus: Bus
    key: str

    async def load(self) -> dict[str, CarriedOut]:
        """What was kept. Raises UnavailableError."""
        kept = await self.bus.read(BUCKET, self.key, NewestCommands)
        return {} if kept is None else kept.newest

    async def save(self, newest: dict[str, CarriedOut]) -> None:
        """Keep this in its place. Raises UnavailableError."""
        await self.bus.write(BUCKET, self.key, NewestCommands(newest=newest))

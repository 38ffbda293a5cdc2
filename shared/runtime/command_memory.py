"""The newest commands that an executor carried out, stored on the bus, for executors without a disk of their own."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel

from accelerator_autopilot.runtime.bus import Bus
from accelerator_autopilot.runtime.command_fence import CarriedOut

BUCKET = "carried_out"


class NewestCommands(BaseModel):
    """The value of an executor's key: its newest commands by kind and target."""

    newest: dict[str, CarriedOut]


@dataclass
class BucketMemory:
    """One key of the bucket; an unreadable value counts as none."""

    bus: Bus
    key: str

    async def load(self) -> dict[str, CarriedOut]:
        """Return what was stored. Raises UnavailableError."""
        kept = await self.bus.read(BUCKET, self.key, NewestCommands)
        return {} if kept is None else kept.newest

    async def save(self, newest: dict[str, CarriedOut]) -> None:
        """Replace what is stored. Raises UnavailableError."""
        await self.bus.write(BUCKET, self.key, NewestCommands(newest=newest))

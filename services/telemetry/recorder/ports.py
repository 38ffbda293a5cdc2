"""What the recorder needs from outside: the database, part by part."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from nats.aio.msg import Msg
from nats.js import JetStreamContext

from accelerator_autopilot.contracts.frames import TelemetryFrame
from accelerator_autopilot.contracts.messages.telemetry import NodeInventory
from accelerator_autopilot.telemetry.recorder.domain.frame_sequence import Run, Totals

Row = tuple[Any, ...]
Busy = Callable[[], bool]


class RecordTable(Protocol):
    """A stream besides the frames, and how each of its messages becomes a row."""

    @property
    def stream(self) -> str:
        """Name of the stream."""

    @property
    def durable(self) -> str:
        """Name of the consumer."""

    @property
    def row(self) -> Callable[[Msg], Row]:
        """Makes the row; raises ValueError or MalformedMessageError where there is none to make."""


class RecordStore(Protocol):
    """Where the other messages become rows."""

    async def write(self, stream: str, rows: Sequence[Row]) -> int:
        """Write rows of a stream's table in one transaction and return how many. Raises the database's errors."""


class FrameStore(Protocol):
    """Where frames become rows."""

    async def write(self, frames: Sequence[TelemetryFrame]) -> int:
        """Write each sample once and return the number of new rows."""


class FleetStore(Protocol):
    """Nodes with their devices, and which frames of theirs were seen. All methods raise the database's errors."""

    async def write_inventories(self, inventories: Iterable[NodeInventory]) -> None:
        """Describe every device with its links and processes."""

    async def write_runs(self, runs: dict[tuple[str, int], Run]) -> None:
        """Unite frame numbers with those of the other recorders."""

    async def prune_runs(self) -> int:
        """Forget runs of agents that ended long ago; return how many."""

    async def missing_frames(self) -> dict[str, int]:
        """How many frame numbers of the last hour no recorder saw, by node."""

    async def last_counted(self) -> datetime | None:
        """Since when there may be frames that were written and not counted."""

    async def write_factors(self, factors: dict[str, float]) -> None:
        """Set what dashboards multiply energy with."""

    async def write_pipeline(self, recorder: str, totals: Totals, backlog: int, elapsed_s: float) -> None:
        """How this recorder did in the last `elapsed_s` seconds."""


class PartitionUpkeep(Protocol):
    """Partitions of the tables of samples."""

    async def keep(self, now: datetime) -> None:
        """Make those of the hours to come and drop the old ones, once. Raises the database's errors."""


class RetentionUpkeep(Protocol):
    """Old rows of plain tables."""

    async def sweep(self, now: datetime, busy: Busy) -> int:
        """Delete for a short time, and none while `busy`; return how many rows. Raises the database's errors."""


class RollupUpkeep(Protocol):
    """Minutes, hours and energy from samples."""

    @property
    def longest_s(self) -> float:
        """Seconds that a statement may take."""

    async def turn(self, busy: Busy) -> int:
        """Roll up what is due until `busy`; return how many. Raises the database's errors."""

    async def jobs(self) -> None:
        """Give jobs that were recorded lately their energy. Raises the database's errors."""


@dataclass(frozen=True)
class RecorderStorage:
    """All that the recorder does with one pool of connections.

    `frames` makes a store that remembers nothing yet; `probe` reports until cancelled whether the database takes
    writes; `write_queue` counts the jobs that wait and run.
    """

    frames: Callable[[], FrameStore]
    records: RecordStore
    fleet: FleetStore
    partitions: PartitionUpkeep
    retention: RetentionUpkeep
    rollups: RollupUpkeep
    write_queue: Callable[[JetStreamContext], Awaitable[None]]
    probe: Callable[[], Coroutine[Any, Any, None]]

"""Ports of the recorder: the parts of its database."""

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
    """A stream other than frames, and how each of its messages becomes a row."""

    @property
    def stream(self) -> str:
        """Name of the stream."""

    @property
    def durable(self) -> str:
        """Name of the consumer."""

    @property
    def row(self) -> Callable[[Msg], Row]:
        """Build the row; raises ValueError or MalformedMessageError where that is impossible."""


class RecordStore(Protocol):
    """Stores other messages as rows."""

    async def write(self, stream: str, rows: Sequence[Row]) -> int:
        """Write rows of a stream's table in one transaction; returns how many. Raises the database's errors."""


class FrameStore(Protocol):
    """Stores frames as rows."""

    async def write(self, frames: Sequence[TelemetryFrame]) -> int:
        """Write each sample once; returns the number of new rows."""


class FleetStore(Protocol):
    """Nodes with their devices, and which of their frames were seen. All methods raise the database's errors."""

    async def write_inventories(self, inventories: Iterable[NodeInventory]) -> None:
        """Upsert every device with its links and processes."""

    async def write_runs(self, runs: dict[tuple[str, int], Run]) -> None:
        """Merge frame numbers with those of the other recorders."""

    async def prune_runs(self) -> int:
        """Delete runs of agents that ended long ago; returns how many."""

    async def missing_frames(self) -> dict[str, int]:
        """Return how many frame numbers of the last hour no recorder saw, by node."""

    async def last_counted(self) -> datetime | None:
        """Return since when frames may have been written but not counted."""

    async def write_factors(self, factors: dict[str, float]) -> None:
        """Set the factors that dashboards multiply energy with."""

    async def write_pipeline(self, recorder: str, totals: Totals, backlog: int, elapsed_s: float) -> None:
        """Write this recorder's statistics for the last `elapsed_s` seconds."""


class PartitionUpkeep(Protocol):
    """Partitions of the sample tables."""

    async def keep(self, now: datetime) -> None:
        """Create partitions for the coming hours and drop old ones, once. Raises the database's errors."""


class RetentionUpkeep(Protocol):
    """Retention of plain tables."""

    async def sweep(self, now: datetime, busy: Busy) -> int:
        """Delete for a short time, and not while `busy`; returns how many rows. Raises the database's errors."""


class RollupUpkeep(Protocol):
    """Minutes, hours and energy from samples."""

    @property
    def longest_s(self) -> float:
        """The time limit of a statement, in seconds."""

    async def turn(self, busy: Busy) -> int:
        """Roll up what is due until `busy`; returns how many. Raises the database's errors."""

    async def jobs(self) -> None:
        """Compute the energy of recently recorded jobs. Raises the database's errors."""


@dataclass(frozen=True)
class RecorderStorage:
    """Everything that the recorder does with one pool of connections.

    `frames` creates a store with empty caches; `probe` reports until cancelled whether the database accepts writes;
    `write_queue` records the queued and running jobs.
    """

    frames: Callable[[], FrameStore]
    records: RecordStore
    fleet: FleetStore
    partitions: PartitionUpkeep
    retention: RetentionUpkeep
    rollups: RollupUpkeep
    write_queue: Callable[[JetStreamContext], Awaitable[None]]
    probe: Callable[[], Coroutine[Any, Any, None]]

"""Write frames as rows of `samples`: by COPY, with a staging table only for a batch that collides."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any

import asyncpg
import numpy as np
import numpy.typing as npt

from accelerator_autopilot.contracts.frames import TelemetryFrame
from accelerator_autopilot.contracts.metric_catalogue import NAMES
from accelerator_autopilot.runtime.database import Connection, with_connection
from accelerator_autopilot.telemetry.recorder.adapters.copy_format import copy_binary
from accelerator_autopilot.telemetry.recorder.domain.frame_blocks import SampleBlock, stack

MAX_NODES = 200_000
_DEVICES = (
    "INSERT INTO devices (node, device, simulated, project, actor) "
    "SELECT * FROM unnest($1::text[], $2::text[], $3::bool[], $4::text[], $5::text[]) "
    "ON CONFLICT (node, device) DO UPDATE SET last_seen = now() RETURNING node, device, device_id"
)
_METRICS = "INSERT INTO metrics_seen SELECT unnest($1::text[]) ON CONFLICT DO NOTHING"


class PostgresFrameStore:
    """Writes each sample once, whichever of several recorders gets it, however often it is delivered."""

    def __init__(self, pool: asyncpg.Pool[Any]) -> None:
        self._pool = pool
        self._device_ids: dict[tuple[str, tuple[str, ...]], npt.NDArray[np.int32]] = {}
        self._metrics: set[str] = set()

    async def write(self, frames: Sequence[TelemetryFrame]) -> int:
        """Write frames in one transaction; returns the number of new rows."""
        await self._learn_devices(frames)
        # Metrics of older or newer agents without a column in this schema are left out.
        block = stack(frames, lambda frame: self._device_ids[frame.node, frame.devices], NAMES)
        if not len(block):
            return 0
        await self._learn_metrics(block.metrics)
        columns = ("ts", "device_id", *block.metrics)
        stream = copy_binary(block)
        return await with_connection(self._pool, lambda connection: _write(connection, block, stream, columns))

    async def _learn_devices(self, frames: Sequence[TelemetryFrame]) -> None:
        unknown = {(f.node, f.devices): f for f in frames if (f.node, f.devices) not in self._device_ids}
        if not unknown:
            return
        marked = {(f.node, d): (d in f.simulated, f.project, f.actor) for f in unknown.values() for d in f.devices}
        if len(self._device_ids) > MAX_NODES:
            self._device_ids = {k: v for k, v in self._device_ids.items() if k in {(f.node, f.devices) for f in frames}}
        rows = [(*key, *told) for key, told in sorted(marked.items())]
        columns = [list(column) for column in zip(*rows, strict=True)]
        found = await with_connection(self._pool, lambda connection: connection.fetch(_DEVICES, *columns))
        ids = {(row["node"], row["device"]): row["device_id"] for row in found}
        for node, devices in unknown:
            self._device_ids[node, devices] = np.array([ids[node, d] for d in devices], np.int32)

    async def _learn_metrics(self, metrics: Sequence[str]) -> None:
        """Record which metrics this fleet has: rollups leave the others out."""
        new = set(metrics) - self._metrics
        if new:
            await with_connection(self._pool, lambda connection: connection.execute(_METRICS, sorted(new)))
            self._metrics |= new


async def _write(connection: Connection, block: SampleBlock, stream: bytes, columns: tuple[str, ...]) -> int:
    try:
        async with connection.transaction():
            await connection.copy_to_table("samples", source=_whole(stream), columns=columns, format="binary")
            await _mark_minutes(connection, block)
    except asyncpg.UniqueViolationError:
        return await _write_through_staging(connection, block, stream, columns)
    return len(block)


async def _whole(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def _mark_minutes(connection: Connection, block: SampleBlock) -> None:
    """Mark the minutes that rollups must recompute.

    This comes last in its transaction, so that its lock on the minute's row is short. A rollup deletes a mark only
    if no transaction incremented it meanwhile, so no row is missed.
    """
    minutes = [datetime.fromtimestamp(us / 1e6, UTC) for us in block.minutes_us()]
    await connection.execute(
        "INSERT INTO rollup_marks (kind, ts) SELECT '1m', unnest($1::timestamptz[]) "
        "ON CONFLICT (kind, ts) DO UPDATE SET marks = rollup_marks.marks + 1",
        minutes,
    )


async def _write_through_staging(
    connection: Connection, block: SampleBlock, stream: bytes, columns: tuple[str, ...]
) -> int:
    names = ", ".join(columns)
    async with connection.transaction():
        await connection.execute("CREATE TEMP TABLE staging (LIKE samples) ON COMMIT DROP")
        await connection.copy_to_table("staging", source=_whole(stream), columns=columns, format="binary")
        status = await connection.execute(
            f"INSERT INTO samples ({names}) SELECT {names} FROM staging ON CONFLICT DO NOTHING"  # noqa: S608  our names
        )
        await _mark_minutes(connection, block)
    return int(status.split()[-1])

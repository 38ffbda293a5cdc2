"""Frames to rows of `samples`: COPY, and a staging table only for a batch that collides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import asyncpg
import numpy as np

from shared.frames import TelemetryFrame
from shared.metrics_catalogue import NAMES

Row = tuple[Any, ...]


class PostgresFrameStore:
    """Writes each sample once, whichever of several recorders gets it, however often it comes."""

    def __init__(self, pool: asyncpg.Pool[Any]) -> None:
        self._pool = pool
        self._device_ids: dict[tuple[str, str], int] = {}

    async def write(self, frames: Sequence[TelemetryFrame]) -> int:
        """Write frames in one transaction and return the number of new rows."""
        await self._learn_devices(frames)
        # Metrics of older or newer agents that this schema has no column for are left out.
        present = {metric for frame in frames for metric in frame.metrics}
        columns = ("ts", "device_id", *(name for name in NAMES if name in present))
        rows = list({(row[0], row[1]): row for row in self._rows(frames, columns[2:])}.values())
        if not rows:
            return 0
        async with self._pool.acquire() as connection:
            try:
                async with connection.transaction():
                    await connection.copy_records_to_table("samples", records=rows, columns=columns)
            except asyncpg.UniqueViolationError:
                return await _write_through_staging(connection, rows, columns)
        return len(rows)

    def _rows(self, frames: Sequence[TelemetryFrame], metrics: tuple[str, ...]) -> Iterator[Row]:
        for frame in frames:
            position = {name: i for i, name in enumerate(frame.metrics)}
            order = [position.get(name, -1) for name in metrics]
            padded = np.concatenate([frame.values, np.full((*frame.values.shape[:2], 1), np.nan, np.float32)], axis=2)
            values = padded[:, :, order]
            ids = [self._device_ids[frame.node, device] for device in frame.devices]
            for tick in range(frame.ticks):
                at = frame.tick_time(tick)
                for device_id, row in zip(ids, values[tick].tolist(), strict=True):
                    yield (at, device_id, *(None if v != v else v for v in row))  # noqa: PLR0124  NaN

    async def _learn_devices(self, frames: Sequence[TelemetryFrame]) -> None:
        unknown = sorted(
            {(f.node, d, d in f.simulated) for f in frames for d in f.devices if (f.node, d) not in self._device_ids}
        )
        if not unknown:
            return
        async with self._pool.acquire() as connection:
            found = await connection.fetch(
                "INSERT INTO devices (node, device, simulated) "
                "SELECT * FROM unnest($1::text[], $2::text[], $3::bool[]) "
                "ON CONFLICT (node, device) DO UPDATE SET last_seen = now() RETURNING node, device, device_id",
                *(list(column) for column in zip(*unknown, strict=True)),
            )
        self._device_ids |= {(row["node"], row["device"]): row["device_id"] for row in found}

    def forget_devices(self) -> None:
        """Drop the cached ids, for when the database was replaced."""
        self._device_ids.clear()


async def _write_through_staging(
    connection: asyncpg.pool.PoolConnectionProxy[Any], rows: list[Row], columns: tuple[str, ...]
) -> int:
    names = ", ".join(columns)
    async with connection.transaction():
        await connection.execute("CREATE TEMP TABLE staging (LIKE samples) ON COMMIT DROP")
        await connection.copy_records_to_table("staging", records=rows, columns=columns)
        status = await connection.execute(
            f"INSERT INTO samples ({names}) SELECT {names} FROM staging ON CONFLICT DO NOTHING"  # noqa: S608  our names
        )
    return int(status.split()[-1])


async def keep_partitions(pool: asyncpg.Pool[Any], today: datetime, retention_days: int) -> None:
    """Where samples are natively partitioned: make the next days' partitions, drop those past retention."""
    async with pool.acquire() as connection:
        native = await connection.fetchval("SELECT relkind = 'p' FROM pg_class WHERE relname = 'samples'")
        if not native:
            return
        await connection.execute(
            """
            DO $$ DECLARE d date; BEGIN
              FOR d IN SELECT generate_series(current_date, current_date + 3, '1 day')::date LOOP
                BEGIN
                  EXECUTE format(
                    'CREATE TABLE IF NOT EXISTS samples_%s PARTITION OF samples FOR VALUES FROM (%L) TO (%L)',
                    to_char(d, 'YYYYMMDD'), d::timestamp AT TIME ZONE 'UTC', (d + 1)::timestamp AT TIME ZONE 'UTC');
                EXCEPTION WHEN check_violation THEN NULL;
                END;
              END LOOP;
            END $$
            """
        )
        names = await connection.fetch(
            "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid "
            "WHERE i.inhparent = 'samples'::regclass AND c.relname ~ '^samples_[0-9]{8}$'"
        )
        for record in names:
            day = datetime.strptime(record["relname"][-8:], "%Y%m%d").replace(tzinfo=today.tzinfo)
            if (today - day).days > retention_days:
                await connection.execute(f"DROP TABLE {record['relname']}")

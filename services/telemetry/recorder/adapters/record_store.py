"""Store the records of every stream except frames in the tables of `record_rows`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import asyncpg

from accelerator_autopilot.runtime.database import Connection, with_connection
from accelerator_autopilot.telemetry.recorder.adapters.record_rows import TABLES
from accelerator_autopilot.telemetry.recorder.ports import Row

_INSERTS = {table.stream: table.insert for table in TABLES}


class PostgresRecordStore:
    """Writes each record once; an alert's row follows its newest message."""

    def __init__(self, pool: asyncpg.Pool[Any]) -> None:
        self._pool = pool

    async def write(self, stream: str, rows: Sequence[Row]) -> int:
        """Insert rows in one transaction; returns how many were given. Raises asyncpg's errors."""
        if rows:
            await with_connection(self._pool, lambda connection: _insert(connection, _INSERTS[stream], rows))
        return len(rows)


async def _insert(connection: Connection, statement: str, rows: Sequence[Row]) -> None:
    async with connection.transaction():
        await connection.executemany(statement, rows)

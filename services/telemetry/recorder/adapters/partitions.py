"""Retention on both kinds of database, and partition maintenance for native partitioning."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import asyncpg

Pool: TypeAlias = "asyncpg.Pool[Any]"
log = logging.getLogger(__name__)

LOCKED_WITHIN_MS = 1_000
PARTITIONED = ("samples", "samples_1m", "samples_1h")
_FORMAT = "%Y%m%d%H"
# One partition per month of hourly rows: they are few and small.
_SPAN = {"samples_1m": timedelta(days=1), "samples_1h": timedelta(days=30)}


class Partitions:
    """Creates partitions for the coming hours and drops those past their retention."""

    def __init__(self, pool: Pool, *, hours: int, retention_days: dict[str, int]) -> None:
        self._pool, self._hours, self._retention_days = pool, hours, retention_days

    async def keep(self, now: datetime) -> None:
        """Do both, once."""
        async with self._pool.acquire() as connection:
            if await connection.fetchval("SELECT relkind = 'p' FROM pg_class WHERE relname = 'samples'"):
                for table in PARTITIONED:
                    await self._make(connection, table, now)
                    await self._drop(connection, table, now)
            else:
                for table in PARTITIONED:
                    await _briefly(
                        connection, "SELECT drop_chunks($1::regclass, $2::timestamptz)", table, self._oldest(table, now)
                    )

    def _oldest(self, table: str, now: datetime) -> datetime:
        return now - timedelta(days=self._retention_days[table])

    async def _make(self, connection: Any, table: str, now: datetime) -> None:
        span = _SPAN.get(table, timedelta(hours=self._hours))
        start = datetime.fromtimestamp(now.timestamp() // span.total_seconds() * span.total_seconds(), UTC)
        for step in range(4):
            begin = start + step * span
            name = f"{table}_p{begin.strftime(_FORMAT)}"
            try:
                await _briefly(
                    connection,
                    f"CREATE TABLE IF NOT EXISTS {name} PARTITION OF {table} "
                    f"FOR VALUES FROM ('{begin.isoformat()}') TO ('{(begin + span).isoformat()}')",
                )
            except (asyncpg.CheckViolationError, asyncpg.InvalidObjectDefinitionError):
                # Rows of that time are in the default partition, or a partition of another length
                # covers it.
                continue

    async def _drop(self, connection: Any, table: str, now: datetime) -> None:
        oldest = self._oldest(table, now)
        names = await connection.fetch(
            "SELECT c.relname, pg_get_expr(c.relpartbound, c.oid) AS bound FROM pg_inherits i "
            "JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = $1::regclass",
            table,
        )
        for record in names:
            if record["bound"] == "DEFAULT":
                await _briefly(connection, f"DELETE FROM {record['relname']} WHERE ts < $1", oldest)  # noqa: S608  from the catalogue
            else:
                end = datetime.fromisoformat(record["bound"].rsplit("'", 2)[1]).astimezone(UTC)
                if end <= oldest:
                    await _briefly(connection, f"DROP TABLE {record['relname']}")


async def _briefly(connection: Any, statement: str, *arguments: Any) -> None:
    """Run a statement that yields to long queries: while it waited for its lock, all writes would queue behind it."""
    try:
        async with connection.transaction():
            await connection.execute(f"SET LOCAL lock_timeout = '{LOCKED_WITHIN_MS}ms'")
            await connection.execute(statement, *arguments)
    except asyncpg.LockNotAvailableError:
        log.info("partitions are in use; will retry")

"""Delete old rows of plain tables in small batches: no writer is blocked, and recorders share the work."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import asyncpg

ROWS_AT_ONCE = 2_000
MAX_S = 1.0


@dataclass(frozen=True)
class Kept:
    """A table, its retention setting, and the indexed time column that it applies to."""

    table: str
    time: str
    setting: str
    only: str = "true"


TABLES = (
    Kept("nodes_1m", "ts", "retention_1m_days"),
    Kept("nodes_1h", "ts", "retention_1h_days"),
    Kept("energy", "ts", "retention_1h_days"),
    Kept("jobs", "finished_at", "retention_jobs_days"),
    Kept("dead_jobs", "ts", "retention_jobs_days"),
    Kept("processes", "last_seen", "retention_jobs_days"),
    Kept("events", "ts", "retention_records_days"),
    # An alert that is still open stays, however old it is.
    Kept("alerts", "resolved_at", "retention_records_days", "state = 'resolved'"),
    Kept("commands", "ts", "retention_records_days"),
    Kept("outcomes", "ts", "retention_records_days"),
    Kept("recommendations", "ts", "retention_records_days"),
    Kept("audit", "ts", "retention_audit_days"),
    Kept("queue", "ts", "retention_days"),
    Kept("pipeline", "ts", "retention_pipeline_days"),
)
PARTITIONED = {"samples": "retention_days", "samples_1m": "retention_1m_days", "samples_1h": "retention_1h_days"}

_DELETE = """
DELETE FROM {table} WHERE ctid = ANY(ARRAY(
  SELECT ctid FROM {table} WHERE {time} < $1 AND {only} ORDER BY {time} LIMIT $2 FOR UPDATE SKIP LOCKED))
"""


class Retention:
    """Deletes rows past their retention; `days` are the settings by name."""

    def __init__(self, pool: asyncpg.Pool[Any], days: Mapping[str, int]) -> None:
        self._pool, self._days = pool, days

    async def sweep(self, now: datetime, busy: Callable[[], bool] = lambda: False) -> int:
        """Delete for at most a second, and not while `busy`; returns how many rows were deleted."""
        until, gone = time.monotonic() + MAX_S, 0
        for kept in TABLES:
            oldest = now - timedelta(days=self._days[kept.setting])
            query = _DELETE.format(table=kept.table, time=kept.time, only=kept.only)
            while not busy() and time.monotonic() < until:
                rows = int((await self._pool.execute(query, oldest, ROWS_AT_ONCE)).split()[-1])
                gone += rows
                if rows < ROWS_AT_ONCE:
                    break
        return gone

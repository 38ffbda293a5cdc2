"""Queued and running jobs of each kind and priority, as rows that are kept for a month."""

from __future__ import annotations

from typing import Any, TypeAlias

import asyncpg
from nats.js import JetStreamContext

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.messages.jobs import PRIORITIES
from accelerator_autopilot.transport.consumer_listing import all_consumers

Pool: TypeAlias = "asyncpg.Pool[Any]"
PREFIX = "pool-"


async def write_queue(pool: Pool, js: JetStreamContext) -> None:
    """Write one row per job consumer, rounded to ten seconds: several recorders write the same rows."""
    rows = []
    client = js._nc  # noqa: SLF001  the context has no other name for it
    for info in await all_consumers(client, "JOBS"):
        name = str(info["name"])
        kind, _, priority = name.removeprefix(PREFIX).rpartition("-")
        if name.startswith(PREFIX) and priority in PRIORITIES:
            rows.append((subjects.untoken(kind), priority, info.get("num_pending", 0), info.get("num_ack_pending", 0)))
    async with pool.acquire() as connection, connection.transaction():
        await connection.executemany(
            "INSERT INTO queue VALUES (to_timestamp(floor(extract(epoch FROM now()) / 10) * 10), $1, $2, $3, $4) "
            "ON CONFLICT DO NOTHING",
            rows,
        )

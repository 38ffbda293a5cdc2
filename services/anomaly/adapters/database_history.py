"""Read a past time span from the database as batches of rows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta

import numpy as np

from accelerator_autopilot.anomaly.domain.metric_columns import COLUMNS
from accelerator_autopilot.anomaly.domain.replay import Moment
from accelerator_autopilot.runtime.database import database

SLICE = timedelta(minutes=10)


async def past_ticks(dsn: str, since: datetime, until: datetime) -> AsyncIterator[Moment]:
    """Yield the rows of each second of the span, devices named node/device. Raises UnavailableError."""
    async with database(dsn) as pool:
        names = {r["device_id"]: f"{r['node']}/{r['device']}" for r in await pool.fetch(DEVICES)}
        columns = ", ".join(COLUMNS)
        query = f"SELECT ts, device_id, {columns} FROM samples WHERE ts >= $1 AND ts < $2 ORDER BY ts"  # noqa: S608
        start = since
        while start < until:
            end = min(start + SLICE, until)
            waiting: dict[str, list[float | None]] = {}
            second = None
            for row in await pool.fetch(query, start, end):
                at = int(row["ts"].timestamp())
                if waiting and at != second:
                    yield _moment(second or at, waiting)
                    waiting = {}
                second = at
                waiting[names.get(row["device_id"], str(row["device_id"]))] = list(row)[2:]
            if waiting and second is not None:
                yield _moment(second, waiting)
            start = end
            await asyncio.sleep(0)


DEVICES = "SELECT device_id, node, device FROM devices"


def _moment(at_s: float, rows: dict[str, list[float | None]]) -> Moment:
    values = np.array(list(rows.values()), dtype=np.float64).astype(np.float32)
    values[~np.isfinite(values)] = np.nan
    return Moment(float(at_s), tuple(rows), values)

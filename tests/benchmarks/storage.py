"""Bytes a point, as written and compressed, and the ten heaviest dashboard queries on a day of a fleet.

`value` is what a point takes in the table with its indexes; `baseline` is its bare size, a float32.
The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import asyncpg

from accelerator_autopilot.deploy.local.servers import EmbeddedPostgres
from accelerator_autopilot.runtime.database import connect_pool, migrate
from accelerator_autopilot.transport.clock import utc_now
from tests.support.day_of_data import DEVICES_A_NODE, VALUES, fill_day
from tests.support.grafana import as_sent, panel_queries

FLOAT32 = 4.0


async def table_bytes(connection: asyncpg.Connection, table: str, *, hypertable: bool) -> int:
    size = "hypertable_size($1)" if hypertable else (
        "(SELECT sum(pg_total_relation_size(inhrelid)) FROM pg_inherits WHERE inhparent = $1::text::regclass)"
    )  # fmt: skip
    return int(await connection.fetchval(f"SELECT {size}", table))


async def compressed_bytes(connection: asyncpg.Connection) -> int:
    await connection.execute("SELECT compress_chunk(c, true) FROM show_chunks('samples') c")
    return await table_bytes(connection, "samples", hypertable=True)


async def run(devices: int, dsn: str | None) -> None:
    folder = Path(tempfile.mkdtemp(prefix="autopilot-storage-"))
    folder.chmod(0o755)
    postgres = None
    if dsn is None:
        postgres = EmbeddedPostgres(folder / "pg")
        await postgres.start()
        dsn = postgres.url
    try:
        await migrate(dsn)
        pool = await connect_pool(dsn)
        now = utc_now()
        await fill_day(pool, now, devices)
        nodes = [f"node-{i}" for i in range(devices // DEVICES_A_NODE)]
        taken: dict[str, float] = {}
        for query in panel_queries():
            sql = as_sent(query.sql, now, timedelta(days=1), nodes, "node-0", "GPU-1")
            began = time.perf_counter()
            await pool.fetch(sql)
            taken[query.where] = (time.perf_counter() - began) * 1e3
        async with pool.acquire() as connection:
            hypertable = bool(
                await connection.fetchval("SELECT relkind <> 'p' FROM pg_class WHERE relname = 'samples'")
            )
            points = int(await connection.fetchval("SELECT count(*) FROM samples")) * len(VALUES)
            raw = await table_bytes(connection, "samples", hypertable=hypertable)
            compressed = await compressed_bytes(connection) if hypertable else None
        await pool.close()
    finally:
        if postgres is not None:
            await postgres.stop()
        shutil.rmtree(folder, ignore_errors=True)
    heaviest = dict(sorted(taken.items(), key=lambda item: -item[1])[:10])
    for where, milliseconds in heaviest.items():
        print(f"{milliseconds:8.1f} ms  {where}")
    print(
        json.dumps(
            {
                "name": "storage",
                "value": round(raw / points, 2),
                "unit": "bytes a point",
                "baseline": FLOAT32,
                "ratio": round(raw / points / FLOAT32, 2),
                "compressed": round(compressed / points, 2) if compressed is not None else None,
                "points": points,
                "devices": devices,
                "database": "timescaledb" if hypertable else "postgresql",
                "heaviest_ms": {where: round(ms, 1) for where, ms in heaviest.items()},
            }
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="a fleet of 40 devices, for CI")
    parser.add_argument("--devices", type=int, default=1000)
    parser.add_argument("--database", help="DSN of a server of your own, say one with TimescaleDB")
    args = parser.parse_args()
    asyncio.run(run(40 if args.short else args.devices, args.database))


if __name__ == "__main__":
    main()

"""Thirty days in database and streams, then every query of dashboards, services and routes.

    python -m tests.benchmarks.storage_30_days [--short] [--devices 100] [--days 30]

The fleet is as large as the machine bears (100 devices with a row a minute, 100 jobs an hour and device); the time is
what is tried. Dashboards are asked for all of it, services for the spans that they ask for, and `scheduler: training`
for all. `value` is the slowest query in milliseconds; `baseline` is the same query over the last day. Afterwards
everything older than a day is pruned while a writer goes on: `writer_waited_ms` is the longest that one of its inserts
took. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import tempfile
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg

from accelerator_autopilot.anomaly.adapters.database_history import past_ticks
from accelerator_autopilot.deploy.local.servers import EmbeddedPostgres
from accelerator_autopilot.runtime.database import connect_pool, migrate
from accelerator_autopilot.scheduler.adapters.database_history import read_block, read_past
from accelerator_autopilot.telemetry.recorder.adapters.partitions import Partitions
from accelerator_autopilot.telemetry.recorder.adapters.retention import PARTITIONED, TABLES, Retention
from accelerator_autopilot.telemetry.recorder.adapters.rollups import Rollups
from accelerator_autopilot.transport.clock import utc_now
from tests.benchmarks.storage_routes import routes
from tests.support import day_of_data
from tests.support.grafana import as_sent, panel_queries

KEPT = {"samples": 3650, "samples_1m": 3650, "samples_1h": 3650}
JOBS = """
INSERT INTO jobs (id, kind, status, node, worker, device, attempt, submitted_at, started_at, finished_at, run_s,
  batch_size, energy_j, submitter, wait_s)
SELECT 'm' || n, (ARRAY['embed','summarize'])[1 + n % 2], 'succeeded', 'node-0', 'default-abc123', 'GPU-' || 1 + n % $3,
  1, at, at + interval '1 second', at + interval '3 seconds', 2, 1, 300, 'ada', 1
FROM (SELECT n, $1::timestamptz + n * ($2::timestamptz - $1::timestamptz) / $4::int AS at
  FROM generate_series(1, $4::int) n) each
"""
SPANS = {
    "scheduler: replay of a day, analyse, whatif": timedelta(days=1),
    "scheduler: report of a week": timedelta(days=7),
    "scheduler: training": None,
}
RECORDS = """
INSERT INTO audit SELECT 'm' || n, $1::timestamptz + n * interval '1 minute', 'ada', 'scale', 'p', '{}'
  FROM generate_series(1, $2::int) n;
INSERT INTO events SELECT 'm' || n, $1::timestamptz + n * interval '1 minute', 'node-0', 'GPU-1', 'xid', 31, 'm', false
  FROM generate_series(1, $2::int) n;
INSERT INTO commands SELECT 'm' || n, $1::timestamptz + n * interval '1 minute', 'power', 'node-0/GPU-1', 'scheduler',
  'r', $1::timestamptz, '{}' FROM generate_series(1, $2::int) n;
INSERT INTO outcomes SELECT 'p' || n, 'm' || n, $1::timestamptz + n * interval '1 minute', 'power', 'node-0/GPU-1',
  'applied', '', 150, 150, 150 FROM generate_series(1, $2::int) n
"""


async def fill(pool: asyncpg.Pool[Any], now: datetime, devices: int, days: int) -> dict[str, float]:
    """The last day as `day_of_data` makes it, and the days before it a row a minute; seconds that each part took."""
    start, took, began = now - timedelta(days=days), dict[str, float](), time.perf_counter()

    def done(part: str) -> None:
        nonlocal began
        took[part], began = round(time.perf_counter() - began, 1), time.perf_counter()

    for day in range(days):
        await Partitions(pool, hours=24, retention_days=KEPT).keep(start + timedelta(days=day))
    done("partitions")
    await day_of_data.fill_day(pool, now, devices)
    done("last day")
    await day_of_data.fill_before(pool, now, days)
    done("days before")
    jobs = min(devices * 100 * 24 * days, 3_000_000)
    await pool.execute(JOBS, start, now, devices, jobs, timeout=600)
    done("jobs")
    for statement in RECORDS.split(";"):
        await pool.execute(statement, start, days * 1440)
    done("records")
    await pool.execute("VACUUM ANALYZE", timeout=600)
    done("vacuum")
    return took


async def ask(pool: asyncpg.Pool[Any], dsn: str, now: datetime, devices: int, span: timedelta) -> dict[str, float]:
    """Milliseconds of every query over a span."""
    nodes = [f"node-{i}" for i in range(max(1, devices // day_of_data.DEVICES_A_NODE))]
    taken: dict[str, float] = {}
    for query in panel_queries():
        sql = as_sent(query.sql, now, span, nodes, "node-0", "GPU-1")
        began = time.perf_counter()
        await pool.fetch(sql, timeout=600)
        taken[query.where] = (time.perf_counter() - began) * 1e3
    for name, its in SPANS.items():
        began = time.perf_counter()
        await read_past(dsn, now - min(its or span, span), now)
        taken[name] = (time.perf_counter() - began) * 1e3
    began = time.perf_counter()
    await read_block(dsn, now - timedelta(minutes=15), now, {"default": 5.0}, 5.0)
    taken["scheduler: block"] = (time.perf_counter() - began) * 1e3
    began = time.perf_counter()
    async for _ in past_ticks(dsn, now - timedelta(minutes=10), now):
        pass
    taken["detector: replay of ten minutes"] = (time.perf_counter() - began) * 1e3
    return taken


async def turns(pool: asyncpg.Pool[Any], now: datetime) -> dict[str, float]:
    """Milliseconds of what the recorder does now and then: minutes, an hour, energy of jobs, an idle sweep."""
    hour, taken = now.replace(minute=0, second=0, microsecond=0) - timedelta(hours=3), dict[str, float]()
    rollups = Rollups(pool)
    for kind in ("1h", "1m"):
        await pool.execute("DELETE FROM rollup_marks")
        await pool.execute("INSERT INTO rollup_marks (kind, ts) VALUES ($1, $2)", kind, hour)
        began = time.perf_counter()
        await rollups.turn()
        # A minute marks its hour.
        taken[f"recorder: {'an hour' if kind == '1h' else 'a minute'}"] = (time.perf_counter() - began) * 1e3
    began = time.perf_counter()
    await rollups.jobs()
    taken["recorder: energy of jobs, at most 1 s"] = (time.perf_counter() - began) * 1e3
    began = time.perf_counter()
    await Retention(pool, {kept.setting: 10_000 for kept in TABLES}).sweep(now)
    taken["recorder: a sweep that finds nothing"] = (time.perf_counter() - began) * 1e3
    return taken


async def prune(pool: asyncpg.Pool[Any], now: datetime) -> tuple[int, float, float]:
    """Everything older than a day, while somebody writes; rows, seconds, and the longest that a write took."""
    waited = [0.0]

    async def write() -> None:
        for number in range(10**9):
            began = time.perf_counter()
            await pool.execute("INSERT INTO audit VALUES ($1, $2, 'a', 'b', 'c', '{}')", f"w{number}", now)
            waited[0] = max(waited[0], time.perf_counter() - began)
            await asyncio.sleep(0.01)

    writing, began, rows = asyncio.create_task(write()), time.perf_counter(), 0
    retention = Retention(pool, {kept.setting: 1 for kept in TABLES})
    while gone := await retention.sweep(now):
        rows += gone
    await Partitions(pool, hours=24, retention_days=dict.fromkeys(PARTITIONED, 1)).keep(now)
    took = time.perf_counter() - began
    writing.cancel()
    return rows, took, waited[0]


async def run(devices: int, days: int, dsn: str | None) -> dict[str, Any]:
    """Fill, ask, prune."""
    folder = Path(tempfile.mkdtemp(prefix="autopilot-storage-"))
    folder.chmod(0o755)
    postgres = EmbeddedPostgres(folder / "pg") if dsn is None else None
    try:
        if postgres is not None:
            await postgres.start()
        url = dsn or (postgres.url if postgres is not None else "")
        await migrate(url)
        pool = await connect_pool(url, timeout_s=600)
        now, began = utc_now(), time.perf_counter()
        parts = await fill(pool, now, devices, days)
        filled_s = time.perf_counter() - began
        size = await pool.fetchval("SELECT pg_database_size(current_database())")
        whole = await ask(pool, url, now, devices, timedelta(days=days))
        whole |= await turns(pool, now)
        last_day = await ask(pool, url, now, devices, timedelta(days=1))
        rows, prune_s, waited_s = await prune(pool, now)
        await pool.close()
    finally:
        if postgres is not None:
            await postgres.stop()
        shutil.rmtree(folder, ignore_errors=True)
    told, _, _ = await routes(max(1, devices // day_of_data.DEVICES_A_NODE))
    whole |= told
    slowest = dict(sorted(whole.items(), key=lambda item: -item[1]))
    for where, milliseconds in slowest.items():
        print(f"{milliseconds:8.1f} ms  {where}")
    where, value = next(iter(slowest.items()))
    baseline = last_day.get(where, value)
    return {
        "name": "storage_30_days", "value": round(value, 1), "unit": "ms of the slowest query", "slowest": where,
        "baseline": round(baseline, 1), "ratio": round(value / max(baseline, 1e-3), 2), "queries": len(whole),
        "devices": devices, "days": days, "filled_s": round(filled_s, 1), "parts_s": parts,
        "database_mib": size // 2**20, "over_1_s": sum(ms > 1000 for ms in whole.values()), "pruned_rows": rows,
        "prune_s": round(prune_s, 1), "writer_waited_ms": round(waited_s * 1e3, 1),
        "load": round(os.getloadavg()[0], 1),
    }  # fmt: skip


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="three days of sixteen devices")
    parser.add_argument("--devices", type=int, default=100)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--database", help="DSN of a server of your own, say one with TimescaleDB")
    args = parser.parse_args()
    devices, days = (16, 3) if args.short else (args.devices, args.days)
    print(json.dumps(asyncio.run(run(devices, days, args.database))))


if __name__ == "__main__":
    main()

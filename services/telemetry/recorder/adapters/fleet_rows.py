"""Devices, links and processes of the inventory as rows, and frame numbers."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any

import asyncpg

from accelerator_autopilot.contracts.messages.telemetry import NodeInventory
from accelerator_autopilot.telemetry.recorder.domain.frame_sequence import Run, Totals

_DEVICES = """
INSERT INTO devices (node, device, model, vendor, source, simulated, memory_bytes, power_min_w, power_max_w,
  power_default_w, parent, serial, pci_bus_id, driver, project, actor)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
ON CONFLICT (node, device) DO UPDATE SET model = excluded.model, vendor = excluded.vendor, source = excluded.source,
  simulated = excluded.simulated, memory_bytes = excluded.memory_bytes, power_min_w = excluded.power_min_w,
  power_max_w = excluded.power_max_w, power_default_w = excluded.power_default_w, parent = excluded.parent,
  serial = excluded.serial, pci_bus_id = excluded.pci_bus_id, driver = excluded.driver,
  project = excluded.project, actor = excluded.actor, last_seen = now()
"""
_LINKS = """
INSERT INTO nvlinks (node, device, link, active, speed_mbps, remote, errors, changed_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (node, device, link) DO UPDATE SET speed_mbps = excluded.speed_mbps, remote = excluded.remote,
  errors = excluded.errors, active = excluded.active,
  changed_at = CASE WHEN nvlinks.active = excluded.active THEN nvlinks.changed_at ELSE excluded.changed_at END
"""
_PROCESSES = """
INSERT INTO processes (node, device, pid, started_at, name, username, container, memory_bytes, last_seen)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT (node, device, pid, started_at) DO UPDATE SET memory_bytes = excluded.memory_bytes,
  last_seen = excluded.last_seen
"""
_RUNS = """
INSERT INTO frame_runs (node, epoch_us, last_at, seen, frames, lowest, highest)
SELECT $1, $2, $3, told.seen, numbers_in(told.seen), lower(told.seen), upper(told.seen) - 1
FROM (SELECT $4::int8multirange AS seen) told
ON CONFLICT (node, epoch_us) DO UPDATE SET seen = fold_numbers(frame_runs.seen + excluded.seen),
  frames = numbers_in(frame_runs.seen + excluded.seen),
  lowest = least(frame_runs.lowest, excluded.lowest), highest = greatest(frame_runs.highest, excluded.highest),
  last_at = greatest(frame_runs.last_at, excluded.last_at)
"""


class FleetRows:
    """Known nodes and devices, and which frames were seen. All methods raise asyncpg's errors."""

    def __init__(self, pool: asyncpg.Pool[Any]) -> None:
        self._pool = pool

    async def write_inventories(self, inventories: Iterable[NodeInventory]) -> None:
        """Upsert every device with its links and processes."""
        devices, links, processes = [], [], []
        for i in inventories:
            for d in i.devices:
                devices.append(
                    (
                        *(i.node, d.device, d.model, d.vendor, d.source, d.simulated, d.memory_bytes),
                        *(d.power_min_w, d.power_max_w, d.power_default_w),
                        *(d.parent, d.serial, d.pci_bus_id, d.driver, i.project, i.actor),
                    )
                )
                links += [(i.node, d.device, n.link, n.active, n.speed_mbps, n.remote, n.errors, i.at) for n in d.links]
                processes += [
                    (i.node, d.device, p.pid, p.started_at, p.name, p.username, p.container, p.memory_bytes, i.at)
                    for p in d.processes
                ]
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.executemany(_DEVICES, devices)
            await connection.executemany(_LINKS, links)
            await connection.executemany(_PROCESSES, processes)

    async def write_runs(self, runs: dict[tuple[str, int], Run]) -> None:
        """Merge frame numbers with those of the other recorders; repeating it changes nothing."""
        rows = [
            (node, epoch, datetime.fromtimestamp(run.last_us / 1e6, UTC), _ranges(run))
            for (node, epoch), run in sorted(runs.items(), key=itemgetter(0))
        ]
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.executemany(_RUNS, rows)

    async def write_factors(self, factors: dict[str, float]) -> None:
        """Set the factors that dashboards multiply energy with."""
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.executemany(
                "INSERT INTO factors VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                list(factors.items()),
            )

    async def write_pipeline(self, recorder: str, totals: Totals, backlog: int, elapsed_s: float) -> None:
        """Write this recorder's statistics for the pipeline dashboard; they are kept for a week."""
        await self._pool.execute(
            "INSERT INTO pipeline VALUES (now(), $1, $2, $3, $4, $5, $6)",
            recorder,
            totals.samples / elapsed_s,
            backlog,
            totals.oldest_s if totals.samples else None,
            totals.duplicates / elapsed_s,
            totals.errors / elapsed_s,
        )

    async def last_counted(self) -> datetime | None:
        """Return since when frames may have been written but not counted; None where no recorder ran recently.

        That is the oldest last count among recorders that were active within minutes.
        """
        at: datetime | None = await self._pool.fetchval(
            "SELECT coalesce(min(last) FILTER (WHERE last > now() - interval '5 minutes'), max(last)) FROM "
            "(SELECT max(ts) AS last FROM pipeline WHERE ts > now() - interval '1 hour' GROUP BY recorder) told"
        )
        return at

    async def prune_runs(self) -> int:
        """Delete runs of agents that ended long ago; the last run of each node is kept for three months."""
        deleted = await self._pool.execute(
            "DELETE FROM frame_runs r WHERE last_at < now() - interval '90 days' "
            "OR (last_at < now() - interval '7 days' "
            "AND EXISTS (SELECT FROM frame_runs n WHERE n.node = r.node AND n.last_at > r.last_at))"
        )
        return int(deleted.rsplit(" ", 1)[-1])

    async def missing_frames(self) -> dict[str, int]:
        """Return how many numbers no recorder saw, by node, for runs that were active in the last hour."""
        rows = await self._pool.fetch(
            "SELECT node, sum(missing) AS missing FROM frame_gaps WHERE ts > now() - interval '1 hour' GROUP BY node"
        )
        return {row["node"]: int(row["missing"]) for row in rows}


def _ranges(run: Run) -> list[asyncpg.Range[int]]:
    return [asyncpg.Range(first, last, upper_inc=True) for first, last in run.spans]

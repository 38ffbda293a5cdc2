"""Rows, rollups, energy and retention on a real database, whichever kind it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import numpy as np
import pytest
from nats.aio.client import Client

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.frames import TelemetryFrame, encode
from accelerator_autopilot.runtime.database import connect_pool, migrate
from accelerator_autopilot.telemetry.recorder.adapters.fleet_rows import FleetRows
from accelerator_autopilot.telemetry.recorder.adapters.partitions import Partitions
from accelerator_autopilot.telemetry.recorder.adapters.retention import PARTITIONED, TABLES, Retention
from accelerator_autopilot.telemetry.recorder.adapters.rollups import Rollups
from accelerator_autopilot.telemetry.recorder.adapters.sample_store import PostgresFrameStore
from accelerator_autopilot.telemetry.recorder.application.frame_number_recovery import recount
from accelerator_autopilot.telemetry.recorder.application.frame_writer import DURABLE, FRAMES
from accelerator_autopilot.telemetry.recorder.domain.frame_sequence import FrameSequence, Totals
from accelerator_autopilot.telemetry.settings import RecorderSettings
from accelerator_autopilot.transport import stream_setup
from accelerator_autopilot.transport.clock import utc_now
from tests.support.builders import frame

pytestmark = [pytest.mark.db, pytest.mark.timeout(120)]

KEPT = {"samples": 30, "samples_1m": 180, "samples_1h": 1825}


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[asyncpg.Pool[Any]]:
    await migrate(database_url)
    pool = await connect_pool(database_url)
    await Partitions(pool, hours=24, retention_days=KEPT).keep(utc_now())
    yield pool
    await pool.close()


def past_hour() -> datetime:
    """The start of the hour before the last whole one."""
    return utc_now().replace(minute=0, second=0, microsecond=0) - timedelta(hours=2)


def counting(start: datetime, values: list[float], metric: str = "energy_j") -> TelemetryFrame:
    made = frame(metrics=(metric, "power_w"), ticks=len(values), start=start)
    made.values[:, 0, 0] = values
    made.values[:, 0, 1] = 100.0
    return made


async def roll_up(pool: asyncpg.Pool[Any]) -> None:
    while await Rollups(pool).turn():
        pass


class TestRollups:
    async def test_a_minute_and_an_hour_tell_least_mean_most_and_last(self, pool: asyncpg.Pool[Any]) -> None:
        start = past_hour()
        made = frame(metrics=("power_w", "fan_pct"), ticks=120, start=start)
        made.values[:, 0, 0] = np.arange(120)
        made.values[:, 0, 1] = np.nan
        made.values[::10, 0, 1] = np.arange(12)
        await PostgresFrameStore(pool).write([made])
        await roll_up(pool)
        rows = await pool.fetch("SELECT * FROM samples_1m ORDER BY ts")
        assert [
            (r["samples"], r["power_w_min"], r["power_w_avg"], r["power_w_max"], r["power_w_last"]) for r in rows
        ] == [
            (60, 0.0, 29.5, 59.0, 59.0),
            (60, 60.0, 89.5, 119.0, 119.0),
        ]
        assert [r["fan_pct_last"] for r in rows] == [5.0, 11.0]
        hour = await pool.fetchrow("SELECT * FROM samples_1h")
        assert (hour["samples"], hour["power_w_min"], hour["power_w_max"], hour["power_w_last"]) == (
            120,
            0.0,
            119.0,
            119.0,
        )
        assert hour["power_w_avg"] == pytest.approx(59.5)

    async def test_late_rows_are_rolled_up_again(self, pool: asyncpg.Pool[Any]) -> None:
        store, start = PostgresFrameStore(pool), past_hour()
        await store.write([frame(metrics=("power_w",), start=start, value=10.0)])
        await roll_up(pool)
        await store.write([frame(metrics=("power_w",), start=start + timedelta(seconds=30), value=30.0)])
        await roll_up(pool)
        row = await pool.fetchrow("SELECT power_w_avg, samples FROM samples_1m")
        assert (row["power_w_avg"], row["samples"]) == (20.0, 2)

    async def test_a_node_adds_its_devices_up(self, pool: asyncpg.Pool[Any]) -> None:
        made = frame(devices=("a", "b"), metrics=("power_w", "temp_c", "clock_event_reasons"), start=past_hour())
        made.values[0] = [[100, 50, 0], [200, 90, 0x40]]
        await PostgresFrameStore(pool).write([made])
        await roll_up(pool)
        row = await pool.fetchrow("SELECT * FROM nodes_1m")
        assert (row["node"], row["devices"], row["power_w"], row["temp_max_c"], row["throttled"]) == (
            "n1",
            2,
            300.0,
            90.0,
            1,
        )


class TestEnergy:
    @pytest.mark.parametrize(
        ("values", "joules"),
        [
            ([100.0 * i for i in range(180)], 17_900 - 5_900),
            # The driver was loaded anew in the second minute: 40 more before, 59 s of 100 J since.
            ([100.0 * i for i in range(100)] + [100.0 * i for i in range(80)], 9_900 - 5_900 + 7_900),
            ([100.0 * i for i in range(120)] + [100.0 * i for i in range(60)], 11_900 - 5_900 + 5_900),
        ],
        ids=["steady", "reset within a minute", "reset between minutes"],
    )
    async def test_an_hour_grows_by_what_the_counter_grew(
        self, pool: asyncpg.Pool[Any], values: list[float], joules: float
    ) -> None:
        await PostgresFrameStore(pool).write([counting(past_hour(), values)])
        await roll_up(pool)
        row = await pool.fetchrow("SELECT energy_j, source FROM energy")
        assert (row["energy_j"], row["source"]) == (joules, "counter")

    async def test_without_a_counter_power_is_integrated(self, pool: asyncpg.Pool[Any]) -> None:
        made = frame(metrics=("power_w",), ticks=60, start=past_hour(), value=250.0)
        await PostgresFrameStore(pool).write([made])
        await roll_up(pool)
        row = await pool.fetchrow("SELECT energy_j, source FROM energy")
        assert (row["energy_j"], row["source"]) == (15_000.0, "power")

    async def test_jobs_share_the_energy_of_their_device_by_overlap(self, pool: asyncpg.Pool[Any]) -> None:
        end = utc_now() - timedelta(seconds=10)
        start = end - timedelta(seconds=20)
        await PostgresFrameStore(pool).write([frame(metrics=("power_w",), ticks=21, start=start, value=200.0)])
        insert = (
            "INSERT INTO jobs (id, kind, status, node, worker, device, attempt, submitted_at, started_at, finished_at) "
            "VALUES ($1, 'echo', 'done', 'n1', 'w', 'gpu-0', 1, $2, $2, $3)"
        )
        await pool.execute(insert, "alone", start, start + timedelta(seconds=10))
        await pool.execute(insert, "one", start + timedelta(seconds=10), end)
        await pool.execute(insert, "two", start + timedelta(seconds=10), end)
        await Rollups(pool).jobs()
        rows = {r["id"]: r["energy_j"] for r in await pool.fetch("SELECT id, energy_j FROM jobs")}
        assert rows == {"alone": pytest.approx(2000), "one": pytest.approx(1000), "two": pytest.approx(1000)}

    async def test_jobs_and_samples_that_come_hours_late_still_meet(self, pool: asyncpg.Pool[Any]) -> None:
        start = past_hour() - timedelta(hours=3)
        insert = (
            "INSERT INTO jobs (id, kind, status, node, worker, device, attempt, submitted_at, started_at, finished_at) "
            "VALUES ($1, 'echo', 'done', 'n1', 'w', 'gpu-0', 1, $2, $2, $3)"
        )

        async def energy_of(job: str) -> float | None:
            return await pool.fetchval("SELECT energy_j FROM jobs WHERE id = $1", job)

        await pool.execute(insert, "late samples", start, start + timedelta(seconds=10))
        await Rollups(pool).jobs()
        assert await energy_of("late samples") is None
        await pool.execute("UPDATE jobs SET recorded_at = recorded_at - interval '2 hours'")
        await PostgresFrameStore(pool).write([frame(metrics=("power_w",), ticks=60, start=start, value=200.0)])
        await Rollups(pool).jobs()
        assert await energy_of("late samples") is None, "nobody looks at all old jobs again and again"
        await roll_up(pool)
        assert await energy_of("late samples") == pytest.approx(2000), "its hour was told of the samples"
        later = start + timedelta(seconds=20)
        await pool.execute(insert, "late job", later, later + timedelta(seconds=10))
        await Rollups(pool).jobs()
        assert await energy_of("late job") == pytest.approx(2000)


class TestFrames:
    async def test_several_recorders_write_each_frame_once(self, pool: asyncpg.Pool[Any]) -> None:
        start = past_hour()
        frames = [frame(start=start + timedelta(seconds=i), sequence=i) for i in range(50)]
        stores = [PostgresFrameStore(pool) for _ in range(3)]
        written = await asyncio.gather(*(store.write(frames[i * 10 : i * 10 + 30]) for i, store in enumerate(stores)))
        assert sum(written) == 50
        assert await pool.fetchval("SELECT count(*) FROM samples") == 50

    async def test_a_clock_that_steps_leaves_rows_where_it_said(self, pool: asyncpg.Pool[Any]) -> None:
        store, now = PostgresFrameStore(pool), utc_now()
        steps = [now, now + timedelta(hours=1), now - timedelta(hours=1), datetime(2200, 1, 1, tzinfo=UTC)]
        assert await store.write([frame(start=at) for at in steps]) == 4
        assert await pool.fetchval("SELECT count(*) FROM samples WHERE ts BETWEEN $1 AND $2", steps[2], steps[1]) == 3
        assert await roll_up(pool) is None

    async def test_a_device_that_moves_keeps_its_history_under_its_name(self, pool: asyncpg.Pool[Any]) -> None:
        store, start = PostgresFrameStore(pool), past_hour()
        await store.write([frame(node="n1", start=start), frame(node="n2", start=start + timedelta(seconds=1))])
        rows = await pool.fetch(
            "SELECT d.node FROM samples s JOIN devices d USING (device_id) WHERE d.device = 'gpu-0' ORDER BY s.ts"
        )
        assert [r["node"] for r in rows] == ["n1", "n2"]

    async def test_numbers_that_no_recorder_saw_are_missing(self, pool: asyncpg.Pool[Any]) -> None:
        recorders = [FrameSequence(), FrameSequence()]
        for number in (1, 2, 3, 4, 6, 7, 9, 10):
            recorders[number % 2].add([frame(sequence=number, start=utc_now())])
        for tally in recorders:
            await FleetRows(pool).write_runs(tally.drain())
        assert await FleetRows(pool).missing_frames() == {"n1": 2}

    async def test_what_a_killed_recorder_had_not_counted_is_no_gap(self, pool: asyncpg.Pool[Any], nc: Client) -> None:
        js, now = nc.jetstream(), utc_now()
        await stream_setup.ensure_consumer(js, FRAMES.stream, FRAMES.config)
        taken = await js.pull_subscribe_bind(DURABLE, stream=FRAMES.stream)
        for number in range(1, 8):
            body = encode(frame(sequence=number, start=now))
            await js.publish(subjects.frames("n1"), body, headers={"Nats-Msg-Id": f"n1:{frame().epoch_us}:{number}"})
        for message in await taken.fetch(6, timeout=5):
            await message.ack()
        counted, uncounted = FrameSequence(), FrameSequence()
        counted.add([frame(sequence=number, start=now) for number in (1, 2)])
        await FleetRows(pool).write_runs(counted.drain())
        await FleetRows(pool).write_pipeline("n1/1", Totals(), 0, 10.0)
        uncounted.add([frame(sequence=7, start=now)])
        await FleetRows(pool).write_runs(uncounted.drain())
        assert await FleetRows(pool).missing_frames() == {"n1": 4}
        since = await FleetRows(pool).last_counted()
        assert since is not None
        assert await recount(js, FRAMES.stream, DURABLE, since, uncounted) == 6, "the seventh nobody has taken yet"
        await FleetRows(pool).write_runs(uncounted.drain())
        assert await FleetRows(pool).missing_frames() == {}

    async def test_runs_that_ended_long_ago_are_forgotten_but_for_each_nodes_last(
        self, pool: asyncpg.Pool[Any]
    ) -> None:
        tally, now = FrameSequence(), utc_now()
        ended = (("n1", 1, 30), ("n1", 2, 20), ("n1", 3, 0), ("n2", 1, 40), ("n2", 2, 30), ("n3", 1, 99))
        for node, epoch, days in ended:
            at_us = int((now - timedelta(days=days)).timestamp() * 1e6)
            tally.note(node, epoch, 1, at_us)
        await FleetRows(pool).write_runs(tally.drain())
        assert await FleetRows(pool).prune_runs() == 4
        left = await pool.fetch("SELECT node, epoch_us FROM frame_runs ORDER BY 1, 2")
        assert [tuple(row) for row in left] == [("n1", 3), ("n2", 2)]

    async def test_a_frame_that_comes_again_hides_none_that_is_missing(self, pool: asyncpg.Pool[Any]) -> None:
        tally, now = FrameSequence(), utc_now()
        for number in (5, 1, 2, 2, 3, 1, 5):
            tally.add([frame(sequence=number, start=now)])
        counted = tally.drain()
        await FleetRows(pool).write_runs(counted)
        # Another recorder gets the same frames again, and the first cannot know that its write arrived.
        tally.give_back(counted)
        tally.add([frame(sequence=number, start=now) for number in (3, 8, 2)])
        await FleetRows(pool).write_runs(tally.drain())
        assert await FleetRows(pool).missing_frames() == {"n1": 3}
        run = await pool.fetchrow("SELECT frames, lowest, highest FROM frame_runs")
        assert tuple(run) == (5, 1, 8)

    async def test_a_run_full_of_gaps_stays_small_and_its_count_right(self, pool: asyncpg.Pool[Any]) -> None:
        tally = FrameSequence()
        for start in range(0, 1200, 300):
            tally.add([frame(sequence=2 * number, start=utc_now()) for number in range(start, start + 300)])
            await FleetRows(pool).write_runs(tally.drain())
        assert await FleetRows(pool).missing_frames() == {"n1": 1199}
        ranges = await pool.fetchval("SELECT count(*) FROM (SELECT unnest(seen) FROM frame_runs) r")
        assert ranges <= 201
        tally.add([frame(sequence=2 * 1199 - 1, start=utc_now())])
        await FleetRows(pool).write_runs(tally.drain())
        assert await FleetRows(pool).missing_frames() == {"n1": 1198}


class TestRetention:
    async def test_partitions_or_chunks_past_retention_are_dropped(self, pool: asyncpg.Pool[Any]) -> None:
        store = PostgresFrameStore(pool)
        await store.write([frame(start=utc_now())])
        if await pool.fetchval("SELECT relkind = 'p' FROM pg_class WHERE relname = 'samples'"):
            assert await pool.fetchval("SELECT count(*) FROM samples_default") == 0
        await Partitions(pool, hours=24, retention_days=KEPT).keep(utc_now() + timedelta(days=40))
        assert await pool.fetchval("SELECT count(*) FROM samples") == 0

    async def test_a_long_query_keeps_a_partition_and_nobody_waits_for_it(self, pool: asyncpg.Pool[Any]) -> None:
        await PostgresFrameStore(pool).write([counting(past_hour(), [1.0])])
        later = utc_now() + timedelta(days=40)
        async with pool.acquire() as reader, reader.transaction():
            await reader.fetch("SELECT * FROM samples")
            keeping = asyncio.create_task(Partitions(pool, hours=24, retention_days=KEPT).keep(later))
            await asyncio.sleep(0.3)
            async with asyncio.timeout(20):
                await PostgresFrameStore(pool).write([counting(past_hour(), [2.0, 3.0])])
                await keeping
            assert await reader.fetchval("SELECT count(*) FROM samples") >= 1
        await Partitions(pool, hours=24, retention_days=KEPT).keep(later)
        assert await pool.fetchval("SELECT count(*) FROM samples") == 0

    async def test_partitions_of_hours_hold_their_own_hours(self, pool: asyncpg.Pool[Any]) -> None:
        if not await pool.fetchval("SELECT relkind = 'p' FROM pg_class WHERE relname = 'samples'"):
            pytest.skip("hypertables make their chunks themselves")
        later = utc_now() + timedelta(days=10)
        await Partitions(pool, hours=6, retention_days=KEPT).keep(later)
        await PostgresFrameStore(pool).write([frame(start=later)])
        assert await pool.fetchval("SELECT count(*) FROM samples_default") == 0

    async def test_every_table_is_kept_for_a_time_or_holds_only_what_is(self, pool: asyncpg.Pool[Any]) -> None:
        rows = await pool.fetch(
            "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'public' "
            "AND c.relkind IN ('r', 'p', 'v') AND NOT c.relispartition"
        )
        found = {row["relname"] for row in rows}
        # State, that grows with the fleet and not with time, and views.
        state = {"devices", "nvlinks", "factors", "metrics_seen", "rollup_marks", "alembic_version"}
        views = {"job_costs", "frame_gaps"}
        # Of frame runs the last one of each node stays longer: `prune_runs` sees to it.
        assert found - state - views - {"frame_runs"} == {kept.table for kept in TABLES} | set(PARTITIONED)
        names = RecorderSettings.model_fields
        assert {kept.setting for kept in TABLES} | set(PARTITIONED.values()) <= set(names)
        days = {name: field.default for name, field in names.items() if name.startswith("retention_")}
        assert max(days, key=lambda name: days[name]) == "retention_audit_days", "who did what is kept longest"

    async def test_old_rows_go_in_bites_and_hold_up_no_writer(self, pool: asyncpg.Pool[Any]) -> None:
        now = utc_now()
        insert = (
            "INSERT INTO audit SELECT n::text, $1::timestamptz, 'a', 'b', 'c', '{}' FROM generate_series($2::int, $3) n"
        )
        await pool.execute(insert, now - timedelta(days=40), 1, 4500)
        await pool.execute(insert, now, 5001, 5010)
        alert = (
            "INSERT INTO alerts VALUES ($1, 'n', 'd', 'k', 'critical', $2, 's', $3::timestamptz, $3, "
            "CASE WHEN $2 = 'resolved' THEN $3 END, '[]', false)"
        )
        await pool.execute(alert, "open", "opened", now - timedelta(days=4000))
        await pool.execute(alert, "ended", "resolved", now - timedelta(days=4000))
        days = {kept.setting: 30 for kept in TABLES}
        assert await Retention(pool, days).sweep(now, busy=lambda: True) == 0
        async with pool.acquire() as other, other.transaction():
            # Rows that somebody else holds are left for another time, and nobody waits for them.
            await other.execute("SELECT 1 FROM audit WHERE id = '7' FOR UPDATE")
            gone = 0
            while more := await Retention(pool, days).sweep(now):
                gone += more
            assert gone == 4500
        assert {row["id"] for row in await pool.fetch("SELECT id FROM audit WHERE ts < $1", now)} == {"7"}
        assert await Retention(pool, days).sweep(now) == 1
        assert await pool.fetchval("SELECT count(*) FROM audit") == 10
        assert [row["id"] for row in await pool.fetch("SELECT id FROM alerts")] == ["open"]

    async def test_old_rows_are_found_by_an_index(self, pool: asyncpg.Pool[Any]) -> None:
        indexes = await pool.fetch("SELECT tablename, indexdef FROM pg_indexes WHERE schemaname = 'public'")
        for kept in TABLES:
            defined = [row["indexdef"] for row in indexes if row["tablename"] == kept.table]
            assert any(f"({kept.time})" in each or f"({kept.time}," in each for each in defined), kept.table

    async def test_a_nodes_hour_outlives_its_minutes(self, pool: asyncpg.Pool[Any]) -> None:
        start = past_hour()
        await PostgresFrameStore(pool).write(
            [frame(metrics=("power_w",), ticks=60, start=start + timedelta(minutes=m), value=100.0 * m) for m in (1, 3)]
        )
        await roll_up(pool)
        row = await pool.fetchrow("SELECT * FROM nodes_1h")
        assert (row["ts"], row["node"], row["devices"], row["power_w"]) == (start, "n1", 1, 200.0)

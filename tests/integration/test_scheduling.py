"""The scheduler on real servers: leadership, manual changes, autonomy, explanations, replays of the database."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import asyncpg
import numpy as np
import pytest
from nats.aio.client import Client
from prometheus_client import CollectorRegistry, Gauge

from accelerator_autopilot.client import AutopilotClient
from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.errors import InvalidInputError, NotFoundError
from accelerator_autopilot.contracts.messages.commands import ChampionStatus, FleetPolicy, PoolPolicy, ScaleCommand
from accelerator_autopilot.contracts.messages.jobs import PoolStatus
from accelerator_autopilot.contracts.streams import job_durable
from accelerator_autopilot.deploy.local.instance import take_port
from accelerator_autopilot.runtime.database import migrate
from accelerator_autopilot.scheduler.adapters.database_history import DatabaseHistory, read_block, read_past
from accelerator_autopilot.scheduler.app import create_app
from accelerator_autopilot.scheduler.application.observation_snapshot import OBJECT, ObservationSnapshot
from accelerator_autopilot.scheduler.application.policy_evaluation import PolicyEvaluator
from accelerator_autopilot.scheduler.application.twin_replay import past_pools
from accelerator_autopilot.scheduler.application.weekly_report import WeeklyReports, last_week
from accelerator_autopilot.scheduler.commands.advisor import advise
from accelerator_autopilot.scheduler.commands.report_page import page
from accelerator_autopilot.scheduler.domain.champion_challenger import ChampionChallenger
from accelerator_autopilot.scheduler.policies.builtin import policy_maker
from accelerator_autopilot.scheduler.policies.shadow_policies import ShadowPolicies
from accelerator_autopilot.scheduler.settings import SchedulerSettings
from accelerator_autopilot.scheduler.training.train import own_pools
from accelerator_autopilot.transport.clock import utc_now
from accelerator_autopilot.transport.stream_setup import ensure
from tests.conftest import NatsServer
from tests.support.apps import running
from tests.support.waiting import eventually
from tests.unit.test_scheduler import seen

pytestmark = [pytest.mark.nats, pytest.mark.timeout(90)]


class FakePool:
    """Reports a pool with nobody at work, and takes every scale command."""

    def __init__(self, nc: Client) -> None:
        self.nc, self.desired, self.commands = nc, 1, []

    async def on_scale(self, message: Any) -> None:
        command = ScaleCommand.model_validate_json(message.data)
        self.commands.append(command)
        self.desired = command.replicas

    async def report(self) -> None:
        kv = await self.nc.jetstream().key_value("pools")
        while True:
            status = PoolStatus(pool="p", node="n", at=utc_now(), desired=self.desired, kinds=["echo"], workers=[])
            await kv.put("p.n", status.model_dump_json().encode())
            await asyncio.sleep(0.2)

    @property
    def ours(self) -> list[ScaleCommand]:
        return [c for c in self.commands if c.issuer == "scheduler"]


@asynccontextmanager
async def pool_on(nc: Client) -> AsyncIterator[FakePool]:
    js = nc.jetstream()
    for priority in ("high", "normal", "low"):
        await js.add_consumer("JOBS", job_durable("echo", priority))  # type: ignore[arg-type]
    pool = FakePool(nc)
    await nc.subscribe(subjects.scale_command("p"), cb=pool.on_scale)
    reporting = asyncio.create_task(pool.report())
    yield pool
    reporting.cancel()


def settings(server: NatsServer, **more: Any) -> SchedulerSettings:
    return SchedulerSettings(
        nats_url=server.url,
        health_port=take_port(0, "scheduler"),
        decision_interval_s=0.3,
        policy_name="queue_lag",
        **more,
    )


def policy(**more: Any) -> FleetPolicy:
    bounds = PoolPolicy(floor=1, ceiling=3, step_up=3, **more)
    return FleetPolicy(cap_fraction=None, pools={"p": bounds})


async def test_one_of_two_schedulers_decides_and_what_it_did_can_be_explained(
    nats_server: NatsServer, nc: Client, client: AutopilotClient
) -> None:
    await client.steering.set_policy(policy())
    async with pool_on(nc) as pool:
        for number in range(6):
            await client.jobs.submit("echo", {"text": str(number)})
        async with running(create_app(settings(nats_server))), running(create_app(settings(nats_server))):
            await eventually(lambda: pool.desired == 3)
            await eventually(lambda: len({c.fencing_token for c in pool.ours}) == 1)
        command = pool.ours[-1]
        told = await client.fleet.explain(command.id)
        assert told.record.id == command.decision
        assert told.record.seen["waiting"] == 6
        assert {c.policy for c in told.record.considered} >= {"queue_lag", "learned", "energy_sweep"}
        assert [c.policy for c in told.record.considered if c.chosen] == ["queue_lag"]


async def test_after_a_kill_another_goes_on_with_a_higher_token(
    nats_server: NatsServer, nc: Client, client: AutopilotClient
) -> None:
    await client.steering.set_policy(policy())
    async with pool_on(nc) as pool:
        async with running(create_app(settings(nats_server))):
            await client.jobs.submit("echo", {"text": "1"})
            await client.jobs.submit("echo", {"text": "2"})
            await eventually(lambda: pool.desired == 2)
        async with running(create_app(settings(nats_server))):
            await client.jobs.submit("echo", {"text": "3"})
            await eventually(lambda: pool.desired == 3, within_s=20)
        tokens = [c.fencing_token or 0 for c in pool.ours]
        assert tokens == sorted(tokens)
        assert tokens[-1] > tokens[0]


async def test_what_policies_saw_outlives_the_process(nats_server: NatsServer, nc: Client) -> None:
    js = nc.jetstream()
    await ensure(js, 1)
    makers = {"queue_lag": policy_maker("queue_lag")}
    runners = [ShadowPolicies(makers, 10.0) for _ in range(3)]
    runners[0].propose([seen(pool="p", waiting=9)])
    await ObservationSnapshot(js, runners[0], "first").keep()
    await ObservationSnapshot(js, runners[1], "second").restore()
    held = runners[1].propose([seen(pool="p")])["p"].by("queue_lag")
    assert held is not None
    assert held.replicas == 4, "the cooldown of what another process saw"
    await (await js.object_store("artifacts")).put(OBJECT, b"rubbish")
    await ObservationSnapshot(js, runners[2], "third").restore()
    forgotten = runners[2].propose([seen(pool="p")])["p"].by("queue_lag")
    assert forgotten is not None
    assert forgotten.replicas == 1, "what cannot be read is a past that is not known"


async def test_an_operator_is_not_fought(nats_server: NatsServer, nc: Client, client: AutopilotClient) -> None:
    await client.steering.set_policy(policy(manual_hold_s=60))
    async with pool_on(nc) as pool, running(create_app(settings(nats_server))):
        await client.steering.scale("p", 2)
        await eventually(lambda: pool.desired == 2)
        for number in range(6):
            await client.jobs.submit("echo", {"text": str(number)})

        async def held() -> bool:
            records = await client.fleet.decision_records()
            return any(r.reason == "manual_change" for r in records)

        await eventually(held)
        assert pool.desired == 2
        assert pool.ours == []


async def test_an_operator_is_not_fought_by_who_leads_next(
    nats_server: NatsServer, nc: Client, client: AutopilotClient
) -> None:
    await client.steering.set_policy(policy(manual_hold_s=60))
    async with pool_on(nc) as pool:
        await client.steering.scale("p", 2)
        await eventually(lambda: pool.desired == 2)
        async with running(create_app(settings(nats_server))):
            for number in range(6):
                await client.jobs.submit("echo", {"text": str(number)})

            async def held() -> bool:
                records = await client.fleet.decision_records()
                return any(r.reason == "manual_change" for r in records)

            await eventually(held, 20)
            assert pool.ours == []


async def test_what_needs_approval_is_proposed_and_carried_out_when_approved(
    nats_server: NatsServer, nc: Client, client: AutopilotClient
) -> None:
    await client.steering.set_policy(policy(autonomy="approve"))
    async with pool_on(nc) as pool, running(create_app(settings(nats_server))):
        for number in range(6):
            await client.jobs.submit("echo", {"text": str(number)})

        async def proposed() -> bool:
            return bool(await client.fleet.recommendations())

        await eventually(proposed)
        assert pool.commands == []
        (advice, *_) = await client.fleet.recommendations()
        command = await client.steering.approve(advice)
        await eventually(lambda: pool.desired == 3)
        assert (command.issuer, command.reason) == ("tester", f"approved-{advice.id}")


@pytest.mark.db
async def test_the_past_of_a_database_is_read_replayed_and_reported(
    database_url: str, nats_server: NatsServer, nc: Client, client: AutopilotClient
) -> None:
    await migrate(database_url)
    now = utc_now()
    await fill(database_url, now - timedelta(hours=5), hours=5)
    past = await read_past(database_url, now - timedelta(hours=6), now)
    assert (len(past.jobs.pool), past.jobs.in_all, past.jobs.from_s) == (600, 600, 0.0)
    assert past.energy_by_hour_j.sum() == pytest.approx(sum(float(d.power_w.sum()) * 60 for d in past.devices))
    few = await read_past(database_url, now - timedelta(hours=6), now, most_jobs=50, most_minutes=360)
    assert len(few.jobs.pool) <= 50
    assert few.jobs.in_all == 600
    assert few.jobs.submitted_s.min() == pytest.approx(few.jobs.from_s, abs=600)
    assert few.jobs.submitted_s.tolist() == past.jobs.submitted_s[-len(few.jobs.pool) :].tolist(), "the newest"
    assert [d.device for d in few.devices] == ["gpu-0"], "of whom jobs ran on first"
    assert (past.devices_in_all, few.devices_in_all) == (2, 2)
    block = await read_block(database_url, now - timedelta(hours=6), now, {"default": 0.0}, 1e6)
    assert (block.jobs, block.energy_j) == (600, 200.0)
    assert block.late == int((past.jobs.started_s > past.jobs.submitted_s).sum())
    assert (await read_block(database_url, now - timedelta(hours=6), now, {}, 1e6)).late == 0
    assert {d.device for d in past.devices} == {"gpu-0", "gpu-1"}
    assert past.load_s["default"].tolist() == [7.5]
    assert {a.kind for a in advise(past, FleetPolicy())} == {"idle_device", "cap"}
    assert past_pools(past, FleetPolicy(), None, None)[0].energy_j == 600 * 200
    assert "600" in page(past, FleetPolicy())
    (own,) = await asyncio.to_thread(own_pools, database_url, 0.25)
    assert len(own.trace.arrival_s) == 600, "training begins from the same past"
    bus = BusOf(client)
    champion_challenger = ChampionChallenger("static", "reserve")
    gauge = Gauge("deciding", "who", ["policy"], registry=CollectorRegistry())
    evaluator = PolicyEvaluator(
        DatabaseHistory(database_url), bus, champion_challenger, ["static", "queue_lag", "reserve"], utc_now,
        lambda: True, gauge, timedelta(hours=1),
    )  # type: ignore[arg-type]  # fmt: skip
    choice = await evaluator.replay(now)
    assert choice.champion == champion_challenger.champion
    assert choice.champion != "static", "anything that switches off saves energy here"
    assert choice.saving_low > 0
    kept = ChampionStatus.model_validate_json((await (await client.js.key_value("scheduler")).get("champion")).value)
    assert kept.champion == choice.champion


@pytest.mark.db
async def test_a_week_that_has_ended_gets_its_report_once(
    database_url: str, nats_server: NatsServer, client: AutopilotClient
) -> None:
    await migrate(database_url)
    await ensure(client.js, 1)
    now = utc_now()
    since, until = last_week(now)
    assert (since.weekday(), until - since) == (0, timedelta(days=7))
    assert until <= now
    reporting = WeeklyReports(database_url, BusOf(client), client.js, lambda: now, lambda: True)  # type: ignore[arg-type]
    assert await reporting.make() is None, "nothing was measured"
    assert await client.fleet.reports() == []
    await fill(database_url, since + timedelta(days=1), hours=2)
    name = await reporting.make()
    (week,) = await client.fleet.reports()
    assert name == f"report-{week}"
    told = (await client.fleet.report(week)).decode()
    assert "<!doctype html>" in told
    assert "600" in told
    first = (await (await client.js.object_store("artifacts")).get_info(name)).nuid
    await reporting.make()
    assert (await (await client.js.object_store("artifacts")).get_info(name)).nuid == first
    with pytest.raises(NotFoundError, match=week):
        await client.fleet.report("1999-W01")
    with pytest.raises(InvalidInputError, match="2026-W47"):
        await client.fleet.report("last")


class BusOf:
    """As much of the bus as a replay needs."""

    def __init__(self, client: AutopilotClient) -> None:
        self.client = client

    async def policy(self) -> FleetPolicy:
        return FleetPolicy(pools={"default": PoolPolicy(floor=0, ceiling=6, target_wait_s=30)})

    async def write(self, bucket: str, key: str, value: Any) -> None:
        await (await self.client.js.key_value(bucket)).put(key, value.model_dump_json().encode())


async def fill(dsn: str, start: Any, hours: float) -> None:
    """Two V100, one at work and one idle, and 600 jobs."""
    random = np.random.default_rng(2)
    connection = await asyncpg.connect(dsn)
    for name, util, watts in (("gpu-0", 90.0, 240.0), ("gpu-1", 0.0, 60.0)):
        device_id = await connection.fetchval(
            "INSERT INTO devices (node, device, model, power_min_w, power_default_w, simulated) "
            "VALUES ('n', $1, 'Tesla V100', 100, 250, true) RETURNING device_id",
            name,
        )
        await connection.executemany(
            "INSERT INTO samples (ts, device_id, gpu_util_pct, power_w, power_cap_w) VALUES ($1, $2, $3, $4, 250)",
            [(start + timedelta(minutes=m), device_id, util, watts) for m in range(int(hours * 60))],
        )
    kind = await connection.fetchval("SELECT relkind FROM pg_class WHERE relname = 'samples_1m'")
    if kind in (b"r", b"p"):
        await connection.execute(
            "INSERT INTO samples_1m (device_id, ts, samples, gpu_util_pct_avg, power_w_avg, power_cap_w_avg) "
            "SELECT device_id, date_trunc('minute', ts), 1, gpu_util_pct, power_w, power_cap_w FROM samples"
        )
    await connection.execute(
        "INSERT INTO commands (id, ts, kind, target, issuer, reason, expires_at, body) "
        "VALUES ('c1', $1, 'scale', 'default', 'scheduler', 'backlog', $1, $2)",
        start, json.dumps({"evidence": {"load_time_s": 7.5}}),
    )  # fmt: skip
    at = np.sort(random.uniform(0, hours * 3600, 600))
    for number, second in enumerate(at.tolist()):
        submitted = start + timedelta(seconds=second)
        await connection.execute(
            "INSERT INTO jobs (id, kind, status, node, worker, device, attempt, submitted_at, started_at, finished_at, "
            "run_s, batch_size, energy_j) VALUES ($1, 'embed', 'succeeded', 'n', 'default-abc123', 'gpu-0', 1, $2, $3, "
            "$4, 5, 1, 200)",
            f"j{number}", submitted, submitted + timedelta(seconds=1), submitted + timedelta(seconds=6),
        )  # fmt: skip
    await connection.close()

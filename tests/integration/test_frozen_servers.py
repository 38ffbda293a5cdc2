"""Detection while JetStream takes no write, and looks into the past while PostgreSQL stands still."""

from __future__ import annotations

import asyncio
import os
import signal
from datetime import timedelta
from pathlib import Path

import pytest
from nats.js.api import DiscardPolicy
from prometheus_client import CollectorRegistry, Gauge

from accelerator_autopilot.anomaly.app import create_app
from accelerator_autopilot.anomaly.settings import AnomalySettings
from accelerator_autopilot.client import AutopilotClient
from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.errors import UnavailableError
from accelerator_autopilot.contracts.messages.alerts import Alert
from accelerator_autopilot.deploy.local.servers import EmbeddedPostgres
from accelerator_autopilot.runtime.bus import Bus
from accelerator_autopilot.runtime.database import wait_until_migrated
from accelerator_autopilot.scheduler.adapters.database_history import DatabaseHistory
from accelerator_autopilot.scheduler.application.policy_evaluation import PolicyEvaluator
from accelerator_autopilot.scheduler.domain.champion_challenger import ChampionChallenger
from accelerator_autopilot.transport.clock import utc_now
from tests.conftest import NatsServer
from tests.support.apps import running
from tests.support.builders import event
from tests.support.waiting import eventually

pytestmark = [pytest.mark.nats, pytest.mark.timeout(120)]


async def test_a_stream_that_takes_no_alerts_loses_none_and_stops_nothing(
    nats_server: NatsServer, client: AutopilotClient, tmp_path: Path
) -> None:
    js = client.js
    async with running(create_app(AnomalySettings(nats_url=nats_server.url, data_dir=tmp_path))):
        await js.publish("alerts.info.n0.gpu-0", b"fills the stream")
        usual = (await js.stream_info("ALERTS")).config
        usual.max_msgs, usual.discard = 1, DiscardPolicy.NEW
        await js.update_stream(usual)
        for number in range(30):
            xid = event("xid", number, code=79, at=utc_now(), device=f"gpu-{number % 3}")
            await js.publish(subjects.event("n1", xid.device), xid.model_dump_json().encode())

        async def asked() -> bool:
            info = await js.consumer_info("EVENTS", "anomaly-events")
            return bool(info.delivered and info.delivered.stream_seq > 0)

        await eventually(asked, 20)
        await asyncio.sleep(2)
        assert await client.alerts.open() == []
        usual.max_msgs, usual.discard = -1, DiscardPolicy.OLD
        await js.update_stream(usual)

        async def told() -> bool:
            return {a.device for a in await client.alerts.open()} == {"gpu-0", "gpu-1", "gpu-2"}

        await eventually(told, 60)
        opened: list[Alert] = [a for a in await client.alerts.history() if a.state == "opened"]
        assert sorted(a.device for a in opened) == ["gpu-0", "gpu-1", "gpu-2"], "once each"


@pytest.mark.db
async def test_a_database_that_stands_still_ends_no_look_into_the_past(client: AutopilotClient, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    postgres = EmbeddedPostgres(tmp_path / "postgres")
    await postgres.start()
    try:
        await wait_until_migrated(postgres.url)
        bus = Bus(None)  # type: ignore[arg-type]
        bus._js = client.js
        gauge = Gauge("deciding", "x", ["policy"], registry=CollectorRegistry())
        evaluator = PolicyEvaluator(
            DatabaseHistory(postgres.url), bus, ChampionChallenger("static", "static"), ["static"], utc_now,
            lambda: True, gauge, timedelta(hours=1),
        )  # fmt: skip
        await evaluator.watch(utc_now())
        assert postgres.pid is not None
        os.kill(postgres.pid, signal.SIGSTOP)
        try:
            async with asyncio.timeout(30):
                with pytest.raises(UnavailableError):
                    await evaluator.watch(utc_now())
        finally:
            os.kill(postgres.pid, signal.SIGCONT)
        await evaluator.watch(utc_now())
    finally:
        await postgres.stop()

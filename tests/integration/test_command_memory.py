"""Pools and orchestrators that crash: no older command after a newer one, and what was told as applied holds."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from nats.aio.client import Client
from nats.js.errors import NotFoundError

from accelerator_autopilot.client import AutopilotClient
from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.messages.commands import (
    AnyCommand,
    BatchCommand,
    CommandOutcome,
    DrainCommand,
    ScaleCommand,
)
from accelerator_autopilot.inference.pool.application.command_handlers import PoolCommands
from accelerator_autopilot.inference.pool.application.pool_state import PoolState
from accelerator_autopilot.inference.pool.application.worker_supervisor import PoolSupervisor
from accelerator_autopilot.inference.settings import PoolSettings
from accelerator_autopilot.runtime.bus import Bus
from accelerator_autopilot.runtime.command_fence import CommandFence
from accelerator_autopilot.runtime.command_memory import BUCKET, BucketMemory
from accelerator_autopilot.scheduler.executors.app import ScaleCommands
from accelerator_autopilot.transport.clock import utc_now
from tests.conftest import NatsServer
from tests.support.pools import running_pool
from tests.support.waiting import eventually

pytestmark = [pytest.mark.nats, pytest.mark.timeout(90)]


def fields(name: str, at: datetime) -> dict[str, object]:
    return {"id": name, "issuer": "anna", "reason": "test", "at": at, "expires_at": at + timedelta(seconds=50)}


def scale(name: str, at: datetime, replicas: int) -> ScaleCommand:
    return ScaleCommand.model_validate(fields(name, at) | {"pool": "default", "replicas": replicas})


def drain(name: str, at: datetime, action: str) -> DrainCommand:
    return DrainCommand.model_validate(fields(name, at) | {"node": "n1", "device": "gpu-0", "action": action})


def batch(name: str, at: datetime, delay_s: float) -> BatchCommand:
    return BatchCommand.model_validate(fields(name, at) | {"pool": "default", "delay_s": delay_s, "lease_s": 60})


class Part:
    """A pool's part on one node, as it is after a start."""

    def __init__(self, client: AutopilotClient) -> None:
        bus, self.told = Bus(client.js), list[CommandOutcome]()
        self.supervisor = PoolSupervisor(PoolSettings(node="n1"), 1)
        self.state = PoolState(bus, self.supervisor)

        async def publish(outcome: CommandOutcome) -> None:
            self.told.append(outcome)

        self.commands = PoolCommands(
            self.supervisor, publish, self.state.save_cordons, self.state.save_size,
            CommandFence(memory=BucketMemory(bus, "pool.default.n1")),
        )  # fmt: skip

    async def take(self, command: AnyCommand) -> str:
        if isinstance(command, ScaleCommand):
            await self.commands.on_scale(command)
        elif isinstance(command, DrainCommand):
            await self.commands.on_drain(command)
        elif isinstance(command, BatchCommand):
            await self.commands.on_batch(command)
        return self.told[-1].status


async def test_a_pool_that_crashed_applies_no_older_command(client: AutopilotClient) -> None:
    first, now = Part(client), utc_now()
    old = now - timedelta(seconds=10)
    newer: list[AnyCommand] = [scale("s2", now, 3), drain("d2", now, "restore"), batch("b2", now, 0.5)]
    older: list[AnyCommand] = [scale("s1", old, 7), drain("d1", old, "drain"), batch("b1", old, 2.0)]
    assert [await first.take(one) for one in newer] == ["applied"] * 3
    again = Part(client)
    await again.state.restore()
    assert [await again.take(one) for one in older] == ["refused"] * 3
    assert all("older than command" in told.detail for told in again.told)
    assert (again.supervisor.desired, again.supervisor.cordoned) == (3, set())
    assert await again.take(scale("s3", now + timedelta(seconds=1), 2)) == "applied"
    assert await Part(client).take(drain("d3", now + timedelta(seconds=1), "drain")) == "applied"


async def test_a_size_that_was_told_as_applied_is_there_after_a_crash(client: AutopilotClient) -> None:
    assert await Part(client).take(scale("s1", utc_now(), 5)) == "applied"
    again = Part(client)
    await again.state.restore()
    assert again.supervisor.desired == 5


@pytest.mark.parametrize("stored", [b"", b'{"half', b"[]", b'{"newest": {"ScaleCommand default": 7}}'])
async def test_what_is_unreadable_of_the_commands_before_counts_as_none(client: AutopilotClient, stored: bytes) -> None:
    await (await client.js.key_value(BUCKET)).put("pool.default.n1", stored)
    part = Part(client)
    assert await part.take(scale("s1", utc_now(), 5)) == "applied"
    assert set(await BucketMemory(Bus(client.js), "pool.default.n1").load()) == {"ScaleCommand default"}


async def test_an_orchestrators_executor_that_crashed_applies_no_older_command(client: AutopilotClient) -> None:
    class Cluster:
        def __init__(self) -> None:
            self.size = 1

        async def replicas(self, pool: str) -> int:
            return self.size

        async def scale(self, pool: str, replicas: int) -> int:
            self.size = replicas
            return replicas

        async def close(self) -> None: ...

    cluster, now = Cluster(), utc_now()

    def started() -> ScaleCommands:
        return ScaleCommands(cluster, CommandFence(memory=BucketMemory(Bus(client.js), "orchestrator")))

    assert (await started().carry_out(scale("s2", now, 4))).status == "applied"
    assert (await started().carry_out(scale("s1", now - timedelta(seconds=5), 9))).status == "refused"
    assert cluster.size == 4


async def test_the_pool_itself_remembers(
    client: AutopilotClient, nc: Client, nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = utc_now()
    old = now - timedelta(seconds=10)

    async def send(command: DrainCommand) -> None:
        subject = subjects.drain_command("n1", "gpu-0")
        await client.js.publish(subject, command.model_dump_json().encode())

    async def outcome(name: str) -> CommandOutcome:
        async def look() -> CommandOutcome | None:
            try:
                message = await client.js.get_last_msg("OUTCOMES", subjects.outcome(name))
            except NotFoundError:
                return None
            return CommandOutcome.model_validate_json(message.data or b"")

        told = await eventually(look, 30)
        assert isinstance(told, CommandOutcome)
        return told

    async with running_pool(nc, nats_server.url, monkeypatch, AUTOPILOT_INITIAL_WORKERS="0"):
        await send(drain("d2", now, "restore"))
        assert (await outcome("d2")).status == "applied"
    await send(drain("d1", old, "drain"))
    async with running_pool(nc, nats_server.url, monkeypatch, AUTOPILOT_INITIAL_WORKERS="0"):
        assert (await outcome("d1")).status == "refused"
        assert all(not pool.cordoned for pool in await client.fleet.pools())

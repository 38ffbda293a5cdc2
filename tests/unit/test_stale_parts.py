"""A pool of which a part is not heard: nobody doubles it, nobody empties it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import cast

import pytest
from nats.js import JetStreamContext
from prometheus_client import CollectorRegistry

from accelerator_autopilot.contracts.ids import new_id
from accelerator_autopilot.contracts.messages.commands import CommandOutcome, ScaleCommand
from accelerator_autopilot.contracts.messages.jobs import PoolStatus
from accelerator_autopilot.inference.pool.application.command_handlers import PoolCommands
from accelerator_autopilot.inference.pool.application.worker_supervisor import PoolSupervisor
from accelerator_autopilot.inference.settings import PoolSettings
from accelerator_autopilot.scheduler.adapters.latest_frames import LatestFrames
from accelerator_autopilot.scheduler.adapters.observation_reader import READ_METRICS, FleetReader
from accelerator_autopilot.scheduler.adapters.pool_rates import PoolRates, QueueCount
from accelerator_autopilot.scheduler.domain.latest_readings import LatestReadings
from accelerator_autopilot.transport.bucket_changes import BucketChanges
from accelerator_autopilot.transport.clock import utc_now

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def part(node: str, silent_s: float, pool: str = "p") -> PoolStatus:
    return PoolStatus(pool=pool, node=node, at=NOW - timedelta(seconds=silent_s), desired=4, kinds=["echo"], workers=[])


@pytest.mark.parametrize(
    ("silent_s", "nodes", "held"),
    [(5.0, ["a", "b"], set()), (15.0, None, {"p"}), (59.0, None, {"p"}), (61.0, ["a"], set())],
)
async def test_a_pool_is_left_alone_while_a_part_of_it_is_silent_and_smaller_when_it_is_gone(
    monkeypatch: pytest.MonkeyPatch, silent_s: float, nodes: list[str] | None, held: set[str]
) -> None:
    async def changes(_: BucketChanges) -> dict[str, bytes | None]:
        found = [part("a", 0), part("b", silent_s), part("a", 0, "other")]
        return {f"{p.pool}.{p.node}": p.model_dump_json().encode() for p in found}

    monkeypatch.setattr(BucketChanges, "changes", changes)
    frames = LatestFrames(LatestReadings(READ_METRICS), NOW.timestamp, 10.0, CollectorRegistry())
    reader = FleetReader(cast("JetStreamContext", None), 10.0, frames)
    seen = await reader.pools(NOW)
    assert [p.node for p in seen["other"]] == ["a"]
    assert ([p.node for p in seen["p"]] if "p" in seen else None) == nodes
    assert reader.held == held


async def scaled(nodes: dict[str, int] | None) -> tuple[int, CommandOutcome]:
    told: list[CommandOutcome] = []

    async def publish(outcome: CommandOutcome) -> None:
        told.append(outcome)

    async def save(*_: object) -> None: ...

    supervisor = PoolSupervisor(PoolSettings(node="c"), 4)
    at = utc_now()
    command = ScaleCommand(
        id=new_id(), issuer="scheduler", reason="backlog", at=at, expires_at=at + timedelta(seconds=15),
        pool="default", replicas=9, nodes=nodes,
    )  # fmt: skip
    await PoolCommands(supervisor, publish, save, save).on_scale(command)
    return supervisor.desired, told[0]


async def test_a_node_that_is_not_named_keeps_its_workers_and_says_so() -> None:
    desired, outcome = await scaled({"a": 5, "b": 4})
    assert desired == 4
    assert outcome.status == "refused"
    assert "no share for node c" in outcome.detail


@pytest.mark.parametrize(("nodes", "desired"), [({"a": 9, "c": 0}, 0), ({"c": 3}, 3), (None, 9)])
async def test_a_node_that_is_named_takes_its_share(nodes: dict[str, int] | None, desired: int) -> None:
    now, outcome = await scaled(nodes)
    assert (now, outcome.status) == (desired, "applied")


def test_jobs_that_are_given_back_are_no_arrivals() -> None:
    track = PoolRates()
    track.update(QueueCount(0, 0, 0), [], NOW)
    came = track.update(QueueCount(3, 2, 2), [], NOW).arrivals
    bounced = track.update(QueueCount(3, 2, 40, redelivered=2), [], NOW).arrivals
    after = track.update(QueueCount(4, 2, 80, redelivered=2), [], NOW).arrivals
    assert (came, bounced, after) == (5, 0, 1)

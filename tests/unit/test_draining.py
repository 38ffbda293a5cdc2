"""Drains: written down before they are sent, restored only on proof, and an operator's word goes first."""

from __future__ import annotations

from typing import Any

import pytest

from accelerator_autopilot.contracts.errors import UnavailableError
from accelerator_autopilot.contracts.messages.commands import DrainCommand, FleetPolicy
from accelerator_autopilot.scheduler.app import record_operator_drain
from accelerator_autopilot.scheduler.application.pool_controller import DecisionError
from tests.support.builders import at
from tests.unit.test_control_loop import DEVICE, IDLE, NOT_CAPPING, OTHER, FakeFleet, decider


def word(action: str, second: float) -> DrainCommand:
    return DrainCommand.model_validate(
        {
            "id": f"w{second}", "issuer": "anna", "reason": "r", "at": at(second), "expires_at": at(second + 30),
            "node": "n", "device": "gpu-0", "action": action,
        }
    )  # fmt: skip


class Round:
    """Rounds of the scheduler with one device that has a critical alert, and a pool that does as it is told."""

    def __init__(self, policy: FleetPolicy = NOT_CAPPING) -> None:
        self.fleet = FakeFleet(**IDLE)
        self.fleet.hurt = {DEVICE}
        self.decider, self.bus, self.clock = decider(policy, self.fleet)

    async def at(self, second: float) -> list[str]:
        before = len(self.bus.of(DrainCommand))
        self.clock[0] = second
        await self.decider.decide(1)
        sent = self.bus.of(DrainCommand)[before:]
        for command in sent:
            self.fleet.cordoned = [command.device] if command.action == "drain" else []
        return [command.action for command in sent]


async def test_a_drain_that_cannot_be_written_down_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Round()
    write = made.bus.write

    async def refuse(*_: Any) -> None:
        raise UnavailableError("away")

    monkeypatch.setattr(made.bus, "write", refuse)
    with pytest.raises(DecisionError):
        await made.at(0)
    assert made.bus.of(DrainCommand) == []
    monkeypatch.setattr(made.bus, "write", write)
    assert await made.at(2) == ["drain"]
    made.fleet.hurt = set()
    assert await made.at(4) == []
    assert await made.at(20) == ["restore"]


async def test_a_drain_that_was_lost_after_it_was_written_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Round()
    publish = made.bus.publish

    async def refuse(*_: Any) -> None:
        raise UnavailableError("away")

    monkeypatch.setattr(made.bus, "publish", refuse)
    with pytest.raises(DecisionError):
        await made.at(0)
    monkeypatch.setattr(made.bus, "publish", publish)
    assert await made.at(2) == ["drain"]


@pytest.mark.parametrize("hidden", ["gone", "doubtful", "silent"])
async def test_what_is_not_seen_is_not_restored(hidden: str) -> None:
    made = Round()
    await made.at(0)
    made.fleet.hurt = set()
    if hidden == "gone":
        made.fleet.gone = True
    elif hidden == "doubtful":
        made.fleet.doubtful = {DEVICE}
    else:
        made.fleet.nodes = ["m"]
    for second in range(2, 100, 10):
        assert await made.at(second) == []


async def test_a_device_that_left_comes_back_to_work_only_after_a_reset() -> None:
    made = Round()
    await made.at(0)
    made.fleet.hurt, made.fleet.gone = set(), True
    await made.at(20)
    made.fleet.gone = False
    assert await made.at(40) == []
    assert await made.at(80) == []
    made.fleet.boots = {"n": "b2"}
    assert await made.at(100) == ["restore"]


async def test_a_bucket_that_was_made_anew_knows_nothing_of_older_faults() -> None:
    made = Round()
    await made.at(0)
    made.fleet.hurt, made.fleet.kept_since = set(), at(10)
    assert await made.at(50) == []
    made.fleet.hurt = {DEVICE}
    await made.at(60)
    made.fleet.hurt = set()
    assert await made.at(62) == []
    assert await made.at(90) == ["restore"]


async def test_an_operators_restore_goes_before_the_alert_that_is_open() -> None:
    made = Round()
    await made.at(0)
    await record_operator_drain(made.bus, word("restore", 30))  # type: ignore[arg-type]
    made.fleet.cordoned = []
    for second in (31, 40, 400):
        assert await made.at(second) == []


async def test_what_an_operator_took_out_meanwhile_is_theirs_to_restore() -> None:
    made = Round()
    await made.at(0)
    await record_operator_drain(made.bus, word("cordon", 5))  # type: ignore[arg-type]
    await record_operator_drain(made.bus, word("restore", 1))  # type: ignore[arg-type]
    made.fleet.hurt = set()
    assert await made.at(30) == []
    assert await made.at(60) == []


async def test_another_scheduler_goes_on_with_what_was_written() -> None:
    made = Round()
    await made.at(0)
    other, _, clock = decider(NOT_CAPPING, made.fleet)
    other.devices.actor.bus = made.bus  # type: ignore[assignment]
    made.fleet.hurt, sent = set(), len(made.bus.of(DrainCommand))
    for second in (30.0, 50.0):
        clock[0] = second
        await other.decide(2)
    assert [c.action for c in made.bus.of(DrainCommand)[sent:]] == ["restore"]


async def test_what_nobody_reports_now_counts_as_out() -> None:
    made = Round(FleetPolicy(cap_fraction=None, max_drained_fraction=0.5))
    await made.at(0)
    made.fleet.hurt = {DEVICE, OTHER}
    made.fleet.nodes = ["m"]
    assert await made.at(10) == []
    made.fleet.nodes = ["n"]
    assert await made.at(12) == []


async def test_one_pool_that_cannot_be_decided_stops_neither_drains_nor_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = Round()

    async def fail(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(made.decider.pools, "decide", fail)
    with pytest.raises(DecisionError, match="ZeroDivisionError"):
        await made.at(0)
    assert [c.action for c in made.bus.of(DrainCommand)] == ["drain"]


async def test_a_clock_that_is_set_back_neither_restores_nor_holds_for_ever() -> None:
    made = Round()
    await made.at(10_000)
    made.fleet.hurt = set()
    assert await made.at(0) == []
    assert await made.at(20) == ["restore"]


async def test_what_was_drained_is_given_back_though_the_bucket_was_lost_meanwhile() -> None:
    made = Round()
    assert await made.at(0) == ["drain"]
    made.bus.kept.clear()
    made.fleet.hurt = set()
    assert await made.at(4) == []
    assert ("scheduler", "drain_notes") in made.bus.kept, "written down again"
    assert await made.at(20) == ["restore"]

"""One round of decisions with a fake bus and fleet."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter

from services.scheduler.deciding import Decider
from services.scheduler.domain.observation import PoolObservation
from services.scheduler.domain.policies import make_policy
from shared.messages.commands import DeviceSet, DrainCommand, FleetPolicy, PowerCommand, Recommendation, ScaleCommand
from shared.messages.jobs import PoolStatus
from tests.support.builders import at, device

DEVICE = ("n", "gpu-0")
OTHER = ("n", "gpu-1")


class FakeBus:
    """Keeps what is published and written."""

    def __init__(self, policy: FleetPolicy) -> None:
        self.wanted, self.published, self.kept = policy, [], {}

    async def policy(self) -> FleetPolicy:
        return self.wanted

    async def publish(self, subject: str, message: Any, message_id: str) -> None:
        assert message_id == message.id
        self.published.append((subject, message))

    async def read(self, bucket: str, key: str, _: Any) -> Any:
        return self.kept.get((bucket, key))

    async def write(self, bucket: str, key: str, value: Any) -> None:
        self.kept[bucket, key] = value


class FakeFleet:
    """A pool with a backlog on two simulated devices."""

    def __init__(self) -> None:
        self.hurt: set[tuple[str, str]] = set()
        self.cordoned: list[str] = []
        self.backlog, self.known = 100, True

    async def pools(self, now: Any) -> list[PoolStatus]:
        if not self.known:
            return []
        return [PoolStatus(pool="p", node="n", at=now, desired=1, kinds=["echo"], workers=[], cordoned=self.cordoned)]

    async def observe(self, status: PoolStatus, policy: FleetPolicy, now: Any) -> PoolObservation:
        return PoolObservation("p", now, 1, 1, 0, self.backlog, 0.0, 0.1, policy.pool("p"))

    async def critical(self) -> set[tuple[str, str]]:
        return self.hurt

    async def devices(self) -> dict[tuple[str, str], Any]:
        return {DEVICE: device(device="gpu-0"), OTHER: device(device="gpu-1")}

    def caps_now_w(self, now: Any) -> dict[tuple[str, str], float]:
        return {DEVICE: 250.0, OTHER: 250.0}


def decider(policy: FleetPolicy, fleet: FakeFleet) -> tuple[Decider, FakeBus, list[float]]:
    bus, clock = FakeBus(policy), [0.0]
    counter = Counter("decisions", "by reason", ["reason"], registry=CollectorRegistry())
    made = Decider(bus, fleet, make_policy("forecasting"), lambda: at(clock[0]), counter, 60.0)  # type: ignore[arg-type]
    return made, bus, clock


async def test_commands_carry_reason_numbers_and_fencing_token() -> None:
    made, bus, _ = decider(FleetPolicy(cap_fraction=None), FakeFleet())
    await made.decide(token=9)
    ((subject, command),) = bus.published
    assert subject == "commands.scale.p"
    assert isinstance(command, ScaleCommand)
    assert (command.replicas, command.reason, command.fencing_token) == (2, "backlog", 9)
    assert command.evidence["backlog"] == 100


@pytest.mark.parametrize(("mode", "kinds"), [("advise", [Recommendation]), ("observe", [])])
async def test_without_leave_to_act_nothing_is_commanded(mode: Any, kinds: list[type]) -> None:
    made, bus, clock = decider(FleetPolicy(mode=mode, cap_fraction=None), FakeFleet())
    await made.decide(1)
    clock[0] = 20.0
    await made.decide(1)
    assert [type(m) for _, m in bus.published] == kinds, "and the same advice is not repeated at once"


async def test_a_device_with_a_critical_alert_is_drained_and_later_restored() -> None:
    fleet = FakeFleet()
    fleet.backlog, fleet.hurt = 0, {DEVICE}
    made, bus, clock = decider(FleetPolicy(cap_fraction=None), fleet)
    await made.decide(1)
    assert [(m.action, m.device) for _, m in bus.published if isinstance(m, DrainCommand)] == [("drain", "gpu-0")]
    assert bus.kept["scheduler", "drained"] == DeviceSet(devices=[DEVICE])
    fleet.cordoned, fleet.hurt, clock[0] = ["gpu-0"], set(), 30.0
    await made.decide(1)
    assert [(m.action, m.device) for _, m in bus.published][-1] == ("restore", "gpu-0")
    clock[0] = 40.0
    await made.decide(1)
    assert [m.action for _, m in bus.published] == ["drain", "restore", "restore"], "a lost command is sent again"
    assert bus.kept["scheduler", "drained"] == DeviceSet(devices=[DEVICE]), "ours until seen back"
    fleet.cordoned, clock[0] = [], 50.0
    await made.decide(1)
    assert bus.kept["scheduler", "drained"] == DeviceSet(devices=[])
    assert len(bus.published) == 3


async def test_caps_hold_while_no_jobs_wait() -> None:
    fleet = FakeFleet()
    fleet.backlog = 0
    made, bus, _ = decider(FleetPolicy(cap_fraction=0.8), fleet)
    await made.decide(1)
    caps = [m for _, m in bus.published if isinstance(m, PowerCommand)]
    assert [(c.device, c.cap_w, c.reason) for c in caps] == [
        ("gpu-0", 200.0, "cap_no_backlog"),
        ("gpu-1", 200.0, "cap_no_backlog"),
    ]


async def test_missing_data_means_hold() -> None:
    fleet = FakeFleet()
    fleet.known = False
    made, bus, _ = decider(FleetPolicy(), fleet)
    await made.decide(1)
    assert bus.published == []
    assert made.decisions.labels("missing_data")._value.get() == 1

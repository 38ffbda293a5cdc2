"""Rounds of decisions with a fake bus and fleet."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter

from accelerator_autopilot.contracts.messages.commands import (
    BatchCommand,
    DecisionRecord,
    DeviceSet,
    DrainCommand,
    FleetPolicy,
    PoolPolicy,
    PowerBudget,
    PowerCommand,
    Recommendation,
    ScaleCommand,
)
from accelerator_autopilot.contracts.messages.jobs import PoolStatus
from accelerator_autopilot.scheduler.application.autonomy_gate import AutonomyGate
from accelerator_autopilot.scheduler.application.control_loop import ControlLoop
from accelerator_autopilot.scheduler.application.device_controller import DeviceController
from accelerator_autopilot.scheduler.application.pool_controller import PoolController
from accelerator_autopilot.scheduler.domain.champion_challenger import ChampionChallenger
from accelerator_autopilot.scheduler.domain.device_facts import DeviceRegistry
from accelerator_autopilot.scheduler.domain.drain_decisions import CriticalAlerts
from accelerator_autopilot.scheduler.domain.governor import Governor
from accelerator_autopilot.scheduler.domain.latest_readings import Readings
from accelerator_autopilot.scheduler.domain.observation import PoolObservation
from accelerator_autopilot.scheduler.domain.power_curves import curve_of
from accelerator_autopilot.scheduler.policies.builtin import policy_maker
from accelerator_autopilot.scheduler.policies.shadow_policies import ShadowPolicies
from tests.support.builders import at, device

DEVICE = ("n", "gpu-0")
OTHER = ("n", "gpu-1")
NOT_CAPPING = FleetPolicy(cap_fraction=None)


class FakeBus:
    """Keeps what is published and written."""

    def __init__(self, policy: FleetPolicy) -> None:
        self.wanted, self.published, self.kept = policy, [], {}

    async def policy(self) -> FleetPolicy:
        return self.wanted

    async def publish(self, subject: str, message: Any, message_id: str) -> None:
        assert message_id == message.id
        self.published.append((subject, message))

    def of(self, kind: type) -> list[Any]:
        return [message for _, message in self.published if isinstance(message, kind)]

    async def read(self, bucket: str, key: str, _: Any) -> Any:
        return self.kept.get((bucket, key))

    async def write(self, bucket: str, key: str, value: Any) -> None:
        self.kept[bucket, key] = value


class FakeFleet:
    """A pool with jobs waiting on two simulated devices."""

    def __init__(self, **more: Any) -> None:
        self.hurt: set[tuple[str, str]] = set()
        self.doubtful: set[tuple[str, str]] = set()
        self.boots, self.gone = {"n": "b1"}, False
        self.kept_since: Any = None
        self.cordoned: list[str] = []
        self.seen, self.known, self.nodes = more, True, ["n"]
        self.held: set[str] = set()
        self.book = DeviceRegistry()
        self.caps_now = {DEVICE: 250.0, OTHER: 250.0}

    async def pools(self, now: Any) -> dict[str, list[PoolStatus]]:
        if not self.known:
            return {}
        status = {"pool": "p", "at": now, "desired": 1, "kinds": ["echo"], "workers": [], "cordoned": self.cordoned}
        return {"p": [PoolStatus(node=node, **status) for node in self.nodes]}

    async def refresh(self) -> None: ...

    def observe(
        self, pool: str, parts: Any, devices: Any, power_w: Any, bounds: PoolPolicy, power_level: float, now: Any
    ) -> PoolObservation:
        base = {
            "desired": len(self.nodes), "ready": 1, "starting": 0, "busy": 1, "waiting": 100, "oldest_wait_s": 4.0,
            "arrivals": 50, "completions": 10, "service_s": 0.5, "load_time_s": 5.0, "power_w": 100.0,
            "curve": curve_of("V100", 250.0, 100.0), "devices": [DEVICE],
        }  # fmt: skip
        return PoolObservation(pool=pool, at=now, bounds=bounds, power_level=power_level, **(base | self.seen))

    async def critical(self) -> CriticalAlerts:
        return CriticalAlerts(dict.fromkeys(self.hurt, at(0)), self.doubtful, self.kept_since)

    async def devices(self) -> DeviceRegistry:
        there = [device(device=d) for _, d in (DEVICE, OTHER) if not (self.gone and d == DEVICE[1])]
        self.book.take("n", self.boots.get("n", ""), there)
        return self.book

    def samples(self, metric: str, now: Any) -> Readings:
        return Readings.of(self.caps_now if metric == "power_cap_w" else {})


IDLE = {"waiting": 0, "oldest_wait_s": 0.0, "arrivals": 0, "busy": 0, "completions": 0, "service_s": None}


def decider(
    policy: FleetPolicy, fleet: FakeFleet, *, name: str = "queue_lag"
) -> tuple[ControlLoop, FakeBus, list[float]]:
    bus, clock = FakeBus(policy), [0.0]
    counter = Counter("decisions", "by reason", ["reason"], registry=CollectorRegistry())
    actor = AutonomyGate(bus, lambda: at(clock[0]), counter)  # type: ignore[arg-type]
    runner = ShadowPolicies({n: policy_maker(n) for n in {name, "static", "energy_sweep"}}, 10.0)
    pools = PoolController(actor, runner, Governor(), ChampionChallenger(name, "static"))
    return ControlLoop(fleet, pools, DeviceController(actor, 60.0)), bus, clock  # type: ignore[arg-type]


async def test_commands_carry_reason_numbers_and_fencing_token_and_the_decision_is_on_record() -> None:
    made, bus, _ = decider(NOT_CAPPING, FakeFleet())
    await made.decide(token=9)
    (command,) = bus.of(ScaleCommand)
    assert (command.replicas, command.reason, command.fencing_token) == (4, "backlog", 9)
    assert command.evidence["waiting"] == 100
    (record,) = bus.of(DecisionRecord)
    assert (record.command_id, record.id, record.allowed) == (command.id, command.decision, 4)
    assert {c.policy: c.chosen for c in record.considered} == {
        "queue_lag": True, "static": False, "energy_sweep": False,
    }  # fmt: skip
    assert "100 jobs waiting" in record.explanation


@pytest.mark.parametrize(("mode", "advised"), [("advise", 1), ("approve", 1), ("observe", 0)])
async def test_without_leave_to_act_nothing_is_commanded(mode: Any, advised: int) -> None:
    made, bus, clock = decider(FleetPolicy(mode=mode, cap_fraction=None), FakeFleet())
    await made.decide(1)
    clock[0] = 20.0
    await made.decide(1)
    assert bus.of(ScaleCommand) == []
    advice = bus.of(Recommendation)
    assert len(advice) == advised, "and the same advice is not repeated at once"
    assert all(a.subject == "commands.scale.p" and a.command["replicas"] == 4 for a in advice)


async def test_autonomy_can_differ_by_pool() -> None:
    made, bus, _ = decider(
        FleetPolicy(mode="observe", cap_fraction=None, pools={"p": PoolPolicy(autonomy="act")}), FakeFleet()
    )
    await made.decide(1)
    assert len(bus.of(ScaleCommand)) == 1


async def test_an_operators_choice_of_policy_goes_before_the_champion() -> None:
    policy = FleetPolicy(cap_fraction=None, pools={"p": PoolPolicy(policy="static", ceiling=3, step_up=9)})
    made, bus, _ = decider(policy, FakeFleet(**IDLE))
    await made.decide(1)
    assert bus.of(ScaleCommand)[0].replicas == 3


async def test_a_pool_on_several_nodes_is_told_where() -> None:
    fleet = FakeFleet()
    fleet.nodes = ["n", "m"]
    made, bus, _ = decider(NOT_CAPPING, fleet)
    await made.decide(1)
    assert bus.of(ScaleCommand)[0].nodes == {"n": 4, "m": 0}, "m has no healthy device"


async def test_a_device_with_a_critical_alert_is_drained_and_later_restored() -> None:
    fleet = FakeFleet(**IDLE)
    fleet.hurt = {DEVICE}
    made, bus, clock = decider(NOT_CAPPING, fleet)
    await made.decide(1)
    assert [(m.action, m.device) for m in bus.of(DrainCommand)] == [("drain", "gpu-0")]
    assert bus.kept["scheduler", "drained"] == DeviceSet(devices=[DEVICE], actor="scheduler")
    fleet.cordoned, fleet.hurt, clock[0] = ["gpu-0"], set(), 30.0
    await made.decide(1)
    assert [(m.action, m.device) for m in bus.of(DrainCommand)][-1] == ("restore", "gpu-0")
    clock[0] = 40.0
    await made.decide(1)
    assert [m.action for m in bus.of(DrainCommand)] == ["drain", "restore", "restore"], "a lost command is sent again"
    assert bus.kept["scheduler", "drained"] == DeviceSet(devices=[DEVICE], actor="scheduler"), "ours until seen back"
    fleet.cordoned, clock[0] = [], 50.0
    await made.decide(1)
    assert bus.kept["scheduler", "drained"] == DeviceSet(devices=[], actor="scheduler")
    assert len(bus.of(DrainCommand)) == 3


async def test_devices_of_a_pool_get_the_cap_that_its_policy_wants_and_others_none() -> None:
    made, bus, _ = decider(FleetPolicy(cap_fraction=0.5), FakeFleet(**IDLE), name="energy_sweep")
    await made.decide(1)
    (cap,) = bus.of(PowerCommand)
    assert (cap.device, cap.reason) == ("gpu-0", "cap_cheapest")
    assert 125 <= cap.cap_w < 250


async def test_without_pools_budgets_still_hold_and_caps_are_not_lifted() -> None:
    fleet = FakeFleet(**IDLE)
    policy = FleetPolicy(cap_fraction=0.5, budgets=[PowerBudget(watts=360.0)])
    made, bus, clock = decider(policy, fleet, name="energy_sweep")
    await made.decide(1)
    first = {c.device: c.cap_w for c in bus.of(PowerCommand)}
    assert sum(first.values()) <= 360.5
    fleet.known, clock[0] = False, 10.0
    fleet.caps_now = {("n", name): watts for name, watts in first.items()}
    await made.decide(1)
    assert len(bus.of(PowerCommand)) == 2, "nothing is lifted while nobody knows"
    clock[0] = 40.0
    await made.decide(1)
    assert [c.reason for c in bus.of(PowerCommand)[2:]] == ["cap_renewed", "cap_renewed"]


async def test_a_pool_that_vanishes_and_comes_back_and_absurd_numbers_change_nothing() -> None:
    fleet = FakeFleet(waiting=-5, oldest_wait_s=float("nan"), arrivals=-1, service_s=float("inf"), busy=0)
    made, bus, clock = decider(NOT_CAPPING, fleet)
    for second in range(5):
        clock[0], fleet.known = float(second), second != 2
        await made.decide(1)
    assert bus.of(ScaleCommand) == []
    assert made.pools.actor.decisions.labels("missing_data")._value.get() == 1
    assert made.pools.actor.decisions.labels("absurd_data")._value.get() == 4


async def test_jobs_wait_for_company_so_long_as_the_operator_allows_it_and_the_lease_is_renewed() -> None:
    fleet = FakeFleet(**IDLE | {"slots": 8})
    bounds = PoolPolicy(ceiling=4, target_wait_s=10.0, batch_delay_max_s=0.5)
    made, bus, clock = decider(FleetPolicy(cap_fraction=None, pools={"p": bounds}), fleet, name="reserve")
    await made.decide(1)
    (command,) = bus.of(BatchCommand)
    assert (command.pool, command.delay_s, command.reason) == ("p", 0.5, "batch_delay")
    clock[0] = 10.0
    await made.decide(1)
    assert len(bus.of(BatchCommand)) == 1, "nothing is repeated while the lease is fresh"
    clock[0] = 30.0
    await made.decide(1)
    assert [c.delay_s for c in bus.of(BatchCommand)] == [0.5, 0.5]
    clock[0], fleet.seen = 40.0, {"slots": 8, "waiting": 500, "oldest_wait_s": 9.0}
    await made.decide(1)
    assert bus.of(BatchCommand)[-1].delay_s == 0.0, "nobody waits for company when jobs are late already"


async def test_nobody_waits_for_company_unless_the_operator_allows_it() -> None:
    made, bus, _ = decider(NOT_CAPPING, FakeFleet(**IDLE | {"slots": 8}), name="reserve")
    await made.decide(1)
    assert bus.of(BatchCommand) == []

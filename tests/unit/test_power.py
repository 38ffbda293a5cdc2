"""Caps and clocks of one node: leases, crashes, drivers that are slow, frozen, gone or lie."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from accelerator_autopilot.contracts.messages.commands import CommandOutcome, FleetPolicy
from accelerator_autopilot.telemetry.agent.adapters.power_cap_file import PowerCapFile
from accelerator_autopilot.telemetry.agent.adapters.simulated_source import SimulatedSource
from accelerator_autopilot.telemetry.agent.adapters.threaded_source import ThreadedSource
from accelerator_autopilot.telemetry.agent.application.command_handlers import PowerCommands
from accelerator_autopilot.telemetry.agent.application.power_control import PowerControl
from accelerator_autopilot.telemetry.agent.domain.power_lease import ANY, CappedDevices
from accelerator_autopilot.telemetry.errors import PowerControlError
from accelerator_autopilot.transport.clock import utc_now
from tests.support.builders import at, power_command
from tests.support.waiting import eventually

SIM, LONG = "sim-n1-0", at(10**9)
DEEP, ENDLESS = b"[" * 100_000, b'[{"device": "sim-n1-0", "default_w": Infinity}]'
POLICY = FleetPolicy(power="all", power_floor_fraction=0.0)


class Driver(SimulatedSource):
    """Simulated GPUs whose driver can be slow, refuse, or lie."""

    def __init__(self, count: int = 1) -> None:
        super().__init__("n1", count)
        self.slow_s = 0.0
        self.refuses: set[str] = set()
        self.lie_w: float | None = None

    def set_cap_w(self, device: str, cap_w: float) -> None:
        time.sleep(self.slow_s)
        if "cap" in self.refuses:
            raise PowerControlError("no")
        if "crash" in self.refuses:
            raise KeyError(device)
        super().set_cap_w(device, cap_w)

    def applied_cap_w(self, device: str) -> float:
        return super().applied_cap_w(device) if self.lie_w is None else self.lie_w

    def state(self, device: str = SIM) -> tuple[float, float | None]:
        return self._gpus[device].cap_w, self._gpus[device].clock_mhz


class Node:
    """A node's power control, and those that come after it crashed."""

    def __init__(self, path: Path, driver: Driver | None = None, timeout_s: float = 1.0) -> None:
        self.path, self.driver = path, driver or Driver()
        self.guarded = ThreadedSource(self.driver, timeout_s)
        self.infos = {d.device: (d, self.guarded) for d in self.driver.discover()}
        self.steady_s = 0.0
        self.power = self.start()

    def start(self) -> PowerControl:
        self.power = PowerControl(
            "n1", self.infos.get, PowerCapFile(self.path / "caps.json"), lambda: list(self.infos),
            lambda: self.steady_s,
        )  # fmt: skip
        return self.power

    async def cap(self, **more: object) -> CommandOutcome:
        return await self.power.carry_out(power_command(**{"device": SIM, "expires_at": LONG} | more), POLICY)

    def kept(self) -> list[str]:
        return [entry["device"] for entry in json.loads((self.path / "caps.json").read_text())]


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


class TestLeases:
    async def test_a_clock_is_held_under_the_lease_and_given_back_with_it(self, node: Node) -> None:
        outcome = await node.cap(cap_w=None, clock_mhz=1000.0)
        assert outcome.status == "applied"
        assert "1000 MHz" in outcome.detail
        assert node.driver.state() == (250.0, 1000.0)
        node.steady_s = 10.0
        assert [o.status for o in await node.power.restore_expired(utc_now())] == ["expired"]
        assert node.driver.state() == (250.0, None)
        assert await node.power.restore_expired(utc_now()) == []

    async def test_a_clock_below_the_policys_floor_is_refused(self, node: Node) -> None:
        command = power_command(device=SIM, cap_w=None, clock_mhz=100.0, expires_at=LONG)
        outcome = await node.power.carry_out(command, FleetPolicy(power_floor_fraction=0.5))
        assert outcome.status == "refused"
        assert "clock_mhz=100" in outcome.detail

    @pytest.mark.parametrize("power", ["off", "simulated"])
    async def test_a_policy_that_forbids_caps_lets_one_be_given_back(self, node: Node, power: str) -> None:
        info, guarded = node.infos[SIM]
        node.infos[SIM] = info.model_copy(update={"simulated": False}), guarded
        await node.cap(lease_s=86_400.0)
        forbids = FleetPolicy.model_validate({"power": power})
        lift = power_command(id="lift", device=SIM, cap_w=None, expires_at=LONG)
        assert (await node.power.carry_out(lift, forbids)).status == "applied"
        assert node.driver.state() == (250.0, None)
        assert (await node.power.carry_out(lift, forbids)).status == "refused", "a device that we did not cap"

    async def test_a_cap_that_the_driver_forgot_is_applied_again(self, node: Node) -> None:
        await node.cap()
        node.driver._gpus[SIM].cap_w = 250.0
        await node.power.reassert()
        assert node.driver.state() == (150.0, None)

    async def test_a_clock_that_the_driver_forgot_is_held_again_though_the_cap_is_the_default(self, node: Node) -> None:
        await node.cap(cap_w=None, clock_mhz=1000.0)
        node.driver._gpus[SIM].clock_mhz = None
        await node.power.reassert()
        assert node.driver.state() == (250.0, 1000.0)

    async def test_what_is_over_is_not_applied_again(self, node: Node) -> None:
        await node.cap()
        node.driver._gpus[SIM].cap_w = 250.0
        node.steady_s = 10.0
        await node.power.reassert()
        assert node.driver.state() == (250.0, None)

    async def test_a_cap_without_a_clock_lets_go_of_the_clock_before_it(self, node: Node) -> None:
        await node.cap(clock_mhz=1000.0)
        await node.cap(cap_w=200.0)
        assert node.driver.state() == (200.0, None)

    async def test_a_command_that_comes_again_is_told_again_and_not_carried_out_again(self, node: Node) -> None:
        told: list[CommandOutcome] = []

        async def policy() -> FleetPolicy:
            return POLICY

        async def publish(outcome: CommandOutcome) -> None:
            told.append(outcome)

        commands = PowerCommands(node.power, policy, publish)
        first = power_command(id="c1", device=SIM, expires_at=LONG)
        await commands.on_command(first)
        await commands.on_command(power_command(id="c2", device=SIM, cap_w=None, expires_at=LONG))
        await commands.on_command(first)
        assert [o.command_id for o in told] == ["c1", "c2", "c1"]
        assert node.driver.state() == (250.0, None)


class TestCrashes:
    async def test_caps_and_clocks_are_restored_and_others_left_alone(self, tmp_path: Path) -> None:
        node = Node(tmp_path, Driver(2))
        assert (await node.cap(clock_mhz=1200.0)).read_back == 150.0
        node.driver.set_cap_w("sim-n1-1", 200.0)
        await node.start().restore_all()
        assert node.driver.state() == (250.0, None)
        assert node.driver.state("sim-n1-1") == (200.0, None)
        assert node.kept() == []

    async def test_a_device_that_is_not_there_yet_stays_in_the_file_until_it_is_restored(self, tmp_path: Path) -> None:
        node = Node(tmp_path, Driver(2))
        await node.cap(clock_mhz=1200.0)
        there = dict(node.infos)
        node.infos.pop(SIM)
        await node.start().restore_all()
        await node.cap(device="sim-n1-1", cap_w=200.0)
        assert node.kept() == [SIM, "sim-n1-1"]
        node.infos |= there
        node.steady_s = 6.0
        await node.power.restore_expired(utc_now())
        assert node.driver.state() == (250.0, None)
        assert node.kept() == ["sim-n1-1"]

    async def test_the_file_names_a_device_before_its_cap_is_applied(self, node: Node) -> None:
        node.driver.refuses.add("crash")
        assert (await node.cap()).status == "refused"
        assert node.kept() == [SIM]

    @pytest.mark.parametrize(
        "content", [b"", b'[{"device": "sim-n', b"{broken", b"\xff\xfe", b"[[]]", b"null", DEEP, ENDLESS]
    )
    async def test_a_broken_file_is_kept_and_gives_every_device_its_default(self, node: Node, content: bytes) -> None:
        await node.cap(clock_mhz=1200.0)
        (node.path / "caps.json").write_bytes(content)
        await node.start().restore_all()
        assert node.driver.state() == (250.0, None)
        assert (node.path / "caps.unreadable").read_bytes() == content
        assert node.kept() == [ANY]
        node.steady_s = 700.0
        await node.power.restore_expired(utc_now())
        assert node.kept() == []

    def test_files_of_older_agents_are_understood(self, tmp_path: Path) -> None:
        path = tmp_path / "caps.json"
        path.write_text('["gpu-0"]')
        assert PowerCapFile(path).load() == CappedDevices({"gpu-0"}, {"gpu-0"})

    async def test_what_cannot_be_written_down_is_not_applied(
        self, node: Node, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(PowerCapFile, "save", full)
        outcome = await node.cap()
        assert (outcome.status, node.driver.state()) == ("refused", (250.0, None))
        assert "data folder" in outcome.detail

    async def test_at_the_end_devices_are_restored_and_no_cap_is_taken(self, node: Node) -> None:
        await node.cap()
        await node.power.close()
        assert node.driver.state() == (250.0, None)
        assert (await node.cap()).detail == "the agent is stopping"


class TestDrivers:
    async def test_a_cap_slower_than_the_limit_is_given_back(self, tmp_path: Path) -> None:
        node = Node(tmp_path, timeout_s=0.1)
        node.driver.slow_s = 0.3
        assert (await node.cap()).status == "refused"
        assert node.kept() == [SIM]
        await eventually(lambda: node.driver.state()[0] == 150.0)
        node.driver.slow_s = 0.0

        async def restored() -> bool:
            node.steady_s += 1.0
            await node.power.restore_expired(utc_now())
            return node.driver.state()[0] == 250.0

        await eventually(restored)
        assert node.kept() == []

    async def test_a_clock_is_let_go_when_the_cap_is_refused(self, node: Node) -> None:
        node.driver.refuses.add("cap")
        assert (await node.cap(clock_mhz=1000.0)).status == "refused"
        node.driver.refuses.clear()
        node.steady_s = 1.0
        await node.power.restore_expired(utc_now())
        assert node.driver.state() == (250.0, None)
        assert node.kept() == []

    async def test_what_was_refused_leaves_the_lease_before_it_in_force(self, node: Node) -> None:
        await node.cap(cap_w=200.0)
        before = node.driver.lie_w
        node.driver.lie_w = 200.0
        assert (await node.cap(cap_w=120.0)).status == "refused"
        node.driver.lie_w = before
        assert node.driver.state() == (200.0, None)
        node.steady_s = 10.0
        assert [o.status for o in await node.power.restore_expired(utc_now())] == ["expired"]

    @pytest.mark.parametrize("told", [float("nan"), float("inf"), -1.0, 1e30, 180.0])
    async def test_a_cap_that_reads_back_as_another_is_refused_and_given_back(self, node: Node, told: float) -> None:
        node.driver.lie_w = told
        outcome = await node.cap()
        assert (outcome.status, outcome.read_back) == ("refused", None)
        node.driver.lie_w = None
        node.steady_s = 1.0
        await node.power.restore_expired(utc_now())
        assert node.driver.state() == (250.0, None)

    async def test_a_default_that_is_refused_is_tried_until_it_is_taken(self, node: Node) -> None:
        await node.cap()
        node.driver.refuses.add("cap")
        outcome = await node.cap(cap_w=None)
        assert (outcome.status, node.driver.state()[0]) == ("refused", 150.0)
        for _ in range(5):
            node.steady_s += 6.0
            await node.power.restore_expired(utc_now())
        node.driver.refuses.clear()
        node.steady_s += 6.0
        await node.power.restore_expired(utc_now())
        assert node.driver.state() == (250.0, None)

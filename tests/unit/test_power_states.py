"""Power and clocks as a state machine: whatever drivers, files, clocks and crashes do, defaults come back in time."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from accelerator_autopilot.contracts.errors import UnavailableError
from accelerator_autopilot.contracts.messages.commands import CommandOutcome, FleetPolicy, PowerCommand
from accelerator_autopilot.contracts.messages.telemetry import DeviceInfo
from accelerator_autopilot.telemetry.agent.adapters.threaded_source import ThreadedSource
from accelerator_autopilot.telemetry.agent.application.command_handlers import PowerCommands
from accelerator_autopilot.telemetry.agent.application.lease_expiry import CHECK_S, REASSERT_PERIOD_S
from accelerator_autopilot.telemetry.agent.application.power_control import MAX_PAUSE_S, PowerControl
from tests.support.builders import T0, power_command
from tests.support.flaky_power import DEVICES, Driver, File, Guard
from tests.support.stateful import stateful_settings

POLICY = FleetPolicy(power="all", power_floor_fraction=0.0)
LONGEST_LEASE_S = 60.0
MEMORY = "/dev/shm"  # noqa: S108  a folder of a name of its own is made in it
# What restoring may take after a lease ended: the pause between two tries and one look of the keeper.
MARGIN_S = MAX_PAUSE_S + 2 * CHECK_S
FAULTS = ("late", "never made", "raises before", "raises after", "lies", "nan", "ignores", "no clock", "lost")


@dataclass
class Held:
    """What the last outcome of a device says: a lease in force. `sure` unless something refused may have ended it."""

    cap_w: float
    clock_mhz: float | None
    until_s: float
    until: datetime
    sure: bool = True


class PowerStates(RuleBasedStateMachine):
    """One node: commands, faults, crashes and clocks in any order."""

    @initialize()
    def begin(self) -> None:
        self.loop = asyncio.new_event_loop()
        # In memory, where there is such a folder: each change is synced to the disk.
        self.folder = tempfile.TemporaryDirectory(dir=MEMORY if Path(MEMORY).is_dir() else None)
        self.path = Path(self.folder.name) / "caps.json"
        self.driver = Driver()
        self.infos = {info.device: info for info in self.driver.discover()}
        self.there = set(DEVICES)
        self.bare: set[str] = set()
        self.steady_s, self.ahead = 0.0, timedelta()
        self.held: dict[str, Held] = {}
        self.told: dict[str, list[CommandOutcome]] = {}
        self.ended: set[str] = set()
        self.sent: dict[str, PowerCommand] = {}
        self.broker_away = False
        self.start()

    def start(self) -> None:
        """A process on the cap file that is there."""
        self.guard = Guard(self.driver)
        self.file = File(self.path)
        self.power = PowerControl(
            "n1", self.find, self.file, lambda: sorted(self.there), lambda: self.steady_s, self.wall
        )
        self.commands = PowerCommands(self.power, self.read_policy, self.publish)
        self.highest_token = 0
        self.held = {}

    def find(self, device: str) -> tuple[DeviceInfo, ThreadedSource] | None:
        if device not in self.there:
            return None
        info = self.infos[device]
        return (info.model_copy(update={"power_default_w": None}) if device in self.bare else info), self.guard

    def wall(self) -> datetime:
        return T0 + timedelta(seconds=self.steady_s) + self.ahead

    async def read_policy(self) -> FleetPolicy:
        return POLICY

    async def publish(self, outcome: CommandOutcome) -> None:
        if self.broker_away:
            raise UnavailableError("no broker")
        self.told.setdefault(outcome.command_id, []).append(outcome)

    def run(self, *work: Coroutine[Any, Any, Any]) -> None:
        """Together; what they raise fails the test."""

        async def together() -> None:
            await asyncio.gather(*work)

        self.loop.run_until_complete(together())

    async def keep(self) -> None:
        """One look of the keeper; each lease's end is told at most once."""
        for outcome in await self.power.restore_expired(self.wall()):
            assert outcome.status == "expired"
            assert outcome.command_id in self.sent
            assert outcome.command_id not in self.ended
            self.ended.add(outcome.command_id)
        over = [d for d, held in self.held.items() if self.steady_s >= held.until_s or self.wall() >= held.until]
        for device in over:
            del self.held[device]

    async def deliver(self, command: PowerCommand) -> None:
        """Hand a command over as the stream does: again, until its outcome was told."""
        known = self.commands.fence.outcome_of(command.id)
        sent_at_s, sent_at = self.steady_s, self.wall()
        try:
            await self.commands.on_command(command)
        except UnavailableError:
            assert self.broker_away
        outcome = self.commands.fence.outcome_of(command.id)
        assert outcome is not None
        if known is not None:
            assert outcome is known
            return
        self.expect(command, outcome, sent_at_s, sent_at)

    def expect(self, command: PowerCommand, outcome: CommandOutcome, at_s: float, at: datetime) -> None:
        """Take from an outcome what must hold from now on."""
        device, token = command.device, command.fencing_token or 0
        if command.fencing_token is not None and token < self.highest_token:
            assert outcome.status in {"refused", "expired"}
        if at >= command.expires_at:
            assert outcome.status == "expired"
        if outcome.status == "applied":
            self.highest_token = max(self.highest_token, token)
            self.held.pop(device, None)
            if command.cap_w is not None or command.clock_mhz is not None:
                assert outcome.applied is not None
                until = at + timedelta(seconds=command.lease_s)
                self.held[device] = Held(outcome.applied, command.clock_mhz, at_s + command.lease_s, until)
            return
        if outcome.status == "refused":
            restores = command.cap_w is None and command.clock_mhz is None
            if "has not returned" in outcome.detail or "no answer" in outcome.detail or "tried again" in outcome.detail:
                self.held.pop(device, None)
            elif device in self.held and not restores:
                self.held[device].sure = False

    # Commands

    def command(
        self, device: str, cap_w: float | None, clock_mhz: float | None, lease_s: float, **more: Any
    ) -> PowerCommand:
        """A new one; it may still be carried out for 20 s."""
        expires = self.wall() + timedelta(seconds=more.pop("good_for_s", 20.0))
        made = power_command(
            id=f"c{len(self.sent)}", device=device, cap_w=cap_w, clock_mhz=clock_mhz, lease_s=lease_s,
            at=self.wall(), expires_at=expires, **more,
        )  # fmt: skip
        self.sent[made.id] = made
        return made

    a_device = st.sampled_from(DEVICES)
    a_cap = st.sampled_from((None, 100.0, 150.0, 200.0, 5000.0))
    a_clock = st.sampled_from((None, None, 900.0, 1200.0))
    a_lease = st.sampled_from((1.0, 10.0, 30.0, LONGEST_LEASE_S))

    @rule(device=a_device, cap_w=a_cap, clock_mhz=a_clock, lease_s=a_lease, token=st.sampled_from((None, 1, 2, 3)))
    def order(
        self, device: str, cap_w: float | None, clock_mhz: float | None, lease_s: float, token: int | None
    ) -> None:
        self.run(self.deliver(self.command(device, cap_w, clock_mhz, lease_s, fencing_token=token)))

    @rule(device=a_device, good_for_s=st.sampled_from((0.0, -5.0)))
    def order_too_late(self, device: str, good_for_s: float) -> None:
        self.run(self.deliver(self.command(device, 150.0, None, 10.0, good_for_s=good_for_s)))

    @precondition(lambda self: self.sent)
    @rule(which=st.integers(0, 5))
    def order_again(self, which: int) -> None:
        command = list(self.sent.values())[-1 - which % len(self.sent)]
        self.run(self.deliver(command))

    @rule(devices=st.lists(a_device, min_size=2, max_size=3), cap_w=a_cap, clock_mhz=a_clock, lease_s=a_lease)
    def order_while_the_keeper_works(
        self, devices: list[str], cap_w: float | None, clock_mhz: float | None, lease_s: float
    ) -> None:
        orders = [self.deliver(self.command(d, cap_w, clock_mhz, lease_s)) for d in dict.fromkeys(devices)]
        self.run(self.power.reassert(), *orders, self.keep())
        # A lease that ended beside its own renewal may be either.
        for held in self.held.values():
            held.sure = False

    # Time

    @rule(seconds=st.sampled_from((0.5, 3.0, 10.0, 40.0)))
    def wait(self, seconds: float) -> None:
        self.steady_s += seconds
        self.run(self.keep())

    @rule(hours=st.sampled_from((-24, -1, 1, 24)))
    def jump(self, hours: int) -> None:
        self.ahead += timedelta(hours=hours)

    @rule()
    def reassert(self) -> None:
        self.run(self.power.reassert())

    # Faults

    @rule(fault=st.sampled_from(FAULTS))
    def break_driver(self, fault: str) -> None:
        self.driver.fault = fault

    @rule(late=st.booleans())
    def mend_driver(self, late: bool) -> None:
        self.driver.fault = ""
        if late:
            self.guard.return_late()

    @rule()
    def reload_driver(self) -> None:
        self.driver.forget()

    @rule(device=a_device)
    def come_or_go(self, device: str) -> None:
        self.there ^= {device}

    @rule(device=a_device)
    def tell_or_hide_the_default(self, device: str) -> None:
        self.bare ^= {device}

    @rule()
    def fill_or_empty_disk(self) -> None:
        self.file.full = not self.file.full

    @rule()
    def cut_or_mend_broker(self) -> None:
        self.broker_away = not self.broker_away

    # Processes

    @rule(content=st.sampled_from((None, "half", b"", b"\xff\xfe", b"null", "deep")), late=st.booleans())
    def crash(self, content: str | bytes | None, late: bool) -> None:
        if late:
            self.guard.return_late()
        if content is not None and self.path.exists():
            whole = self.path.read_bytes()
            made = {"half": whole[: len(whole) // 2], "deep": b"[" * 100_000}
            self.path.write_bytes(made[content] if isinstance(content, str) else content)
        self.start()
        self.run(self.power.restore_all())

    @rule(device=a_device, cap_w=a_cap, clock_mhz=a_clock, steps=st.integers(0, 6))
    def crash_in_the_middle(self, device: str, cap_w: float | None, clock_mhz: float | None, steps: int) -> None:
        command = self.command(device, cap_w, clock_mhz, LONGEST_LEASE_S)

        async def partly() -> None:
            task = asyncio.ensure_future(self.power.carry_out(command, POLICY))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        self.run(partly())
        self.start()

    @rule()
    def stop_and_start(self) -> None:
        self.run(self.power.close())
        self.start()
        self.run(self.power.restore_all())

    # What must hold

    def heal(self) -> None:
        """Driver, devices, disk and broker are well again."""
        self.mend_driver(late=True)
        self.there, self.bare = set(DEVICES), set()
        self.file.full = self.broker_away = False

    def pass_time(self, seconds: float) -> None:
        """Let the keeper do what it does."""

        async def keeper() -> None:
            for step in range(int(seconds / CHECK_S)):
                self.steady_s += CHECK_S
                if step % int(REASSERT_PERIOD_S / CHECK_S) == 0:
                    await self.power.reassert()
                await self.keep()

        self.run(keeper())

    @rule()
    def all_is_as_the_outcomes_say_while_drivers_answer(self) -> None:
        self.heal()
        self.pass_time(MARGIN_S)
        self.run(self.power.reassert())
        for device in DEVICES:
            default, held = (self.driver.defaults[device], None), self.held.get(device)
            state = self.driver.state(device)
            if held is None:
                assert state == default, f"{device}: nobody holds it"
            elif held.sure:
                assert state == (held.cap_w, held.clock_mhz), f"{device}: is held"
            else:
                assert state in (default, (held.cap_w, held.clock_mhz)), f"{device}: may be held"

    def teardown(self) -> None:
        if not hasattr(self, "loop"):
            return
        try:
            self.heal()
            self.pass_time(LONGEST_LEASE_S + MARGIN_S)
            for device in DEVICES:
                assert self.driver.state(device) == (self.driver.defaults[device], None), device
            assert self.held == {}
            for command_id, command in self.sent.items():
                if self.commands.fence.outcome_of(command_id) is not None:
                    self.run(self.deliver(command))
            self.steady_s += 700.0
            self.run(self.keep())
            assert self.file.load().devices == set()
        finally:
            self.loop.close()
            self.folder.cleanup()


TestPowerStates = PowerStates.TestCase
TestPowerStates.settings = stateful_settings(examples=40, steps=30)

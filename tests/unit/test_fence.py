"""Commands are carried out once, in order, for a while, and for whoever leads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from accelerator_autopilot.contracts.errors import UnavailableError
from accelerator_autopilot.contracts.messages.commands import CommandOutcome, PowerCommand
from accelerator_autopilot.runtime.command_fence import CommandFence, Status
from accelerator_autopilot.telemetry.agent.adapters.command_file import CommandFile
from accelerator_autopilot.transport.audit_records import record
from tests.support.builders import at, power_command


class Executor:
    """Counts what it carried out."""

    def __init__(self, leading: int | None = 5) -> None:
        self.leading, self.asked, self.fails = leading, 0, False
        self.did: list[str] = []
        self.fence = CommandFence(leading=self.check)

    async def check(self) -> int | None:
        self.asked += 1
        return self.leading

    async def take(self, second: float = 0.0, **more: Any) -> CommandOutcome:
        base = {"issuer": "scheduler", "fencing_token": self.leading, "at": at(second), "expires_at": at(second + 15)}
        base["id"] = f"c{second}"
        return await self.run(power_command(**(base | more)), second)

    def none(self, status: Status, detail: str) -> CommandOutcome:
        raise AssertionError(f"{status}: {detail}")

    async def run(self, command: PowerCommand, now: float) -> CommandOutcome:
        def told(status: Status, detail: str = "") -> CommandOutcome:
            return CommandOutcome(
                id=f"o{len(self.did)}-{now}", command_id=command.id, command="power", target=command.target,
                status=status, detail=detail, at=at(now), executor="test",
            )  # fmt: skip

        async def act() -> CommandOutcome:
            if self.fails:
                raise UnavailableError("away")
            self.did.append(command.id)
            return told("applied")

        return await self.fence.carry_out(command, at(now), act, told)


async def test_a_command_that_comes_again_is_told_of_again_and_not_carried_out() -> None:
    made = Executor()
    first = await made.take(0)
    assert await made.take(0) == first
    assert made.did == ["c0"]


async def test_what_failed_for_now_may_be_tried_again() -> None:
    made = Executor()
    made.fails = True
    with pytest.raises(UnavailableError):
        await made.take(0)
    made.fails = False
    assert (await made.take(0)).status == "applied"


async def test_an_older_command_is_not_carried_out_after_a_newer_one() -> None:
    made = Executor()
    await made.take(10)
    late = await made.run(
        power_command(id="old", issuer="scheduler", fencing_token=5, at=at(2), expires_at=at(20)), now=11
    )
    assert (late.status, "older than command c10" in late.detail) == ("refused", True)
    other = power_command(id="o", device="gpu-1", issuer="scheduler", fencing_token=5, at=at(2), expires_at=at(20))
    assert (await made.run(other, now=11)).status == "applied", "of another device"


async def test_a_cap_does_not_come_after_the_operators_restore() -> None:
    made = Executor()
    await made.take(20, issuer="anna", fencing_token=None, cap_w=None)
    assert (await made.take(10, expires_at=at(40))).status == "refused"
    assert (await made.take(30, issuer="anna", fencing_token=None)).status == "applied"
    assert (await made.take(27)).status == "applied", "clocks differ a little"


@pytest.mark.parametrize("valid_s", [61, 3600, 315_360_000])
async def test_no_command_is_valid_for_long(valid_s: float) -> None:
    made = Executor()
    assert (await made.take(0, expires_at=at(valid_s))).status == "refused"
    later = {"at": at(valid_s), "expires_at": at(valid_s + 15), "id": "future"}
    assert (await made.take(0, **later)).status == "refused"
    assert made.did == []


@pytest.mark.parametrize("token", [6, 2**62, 2**63 - 1])
async def test_no_number_locks_the_leader_out(token: int) -> None:
    made = Executor()
    assert (await made.take(0, fencing_token=token)).status == "refused"
    assert (await made.take(1)).status == "applied"


async def test_who_led_before_is_refused_and_who_leads_a_bucket_made_anew_is_not() -> None:
    made = Executor(leading=500)
    await made.take(0)
    made.leading = 3
    assert (await made.take(5)).status == "applied", "revisions begin again"
    assert (await made.take(6, fencing_token=500)).status == "refused"


async def test_a_clock_that_was_set_back_is_no_older_command() -> None:
    made = Executor()
    await made.take(7200)
    assert (await made.take(3600)).status == "applied"


async def test_while_nobody_leads_a_command_waits_but_for_whoever_led_last() -> None:
    made = Executor()
    await made.take(0)
    made.leading = None
    with pytest.raises(UnavailableError):
        await made.take(2, fencing_token=9)
    assert (await made.take(3, fencing_token=5)).status == "applied"


async def test_who_stood_still_in_the_middle_of_a_round_leads_no_more() -> None:
    made = Executor(leading=5)
    await made.take(0, device="gpu-0")
    made.leading = 9  # which has told this executor nothing yet
    late = await made.take(1, device="gpu-1", fencing_token=5)
    assert (late.status, "does not belong to the leading scheduler" in late.detail) == ("refused", True)
    assert (await made.take(2, device="gpu-1")).status == "applied"


async def test_a_scheduler_without_a_token_is_none() -> None:
    made = Executor()
    assert (await made.take(0, fencing_token=None)).status == "refused"
    assert (await made.take(1, issuer="anna", fencing_token=None)).status == "applied"


async def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accelerator_autopilot.runtime.command_fence.MAX_REMEMBERED", 5)
    made = Executor()
    for second in range(20):
        await made.take(second, device=f"gpu-{second}")
    assert len(made.fence._handled) == len(made.fence._last) == 5


async def test_after_a_crash_an_older_command_is_not_carried_out_after_a_newer_one(tmp_path: Path) -> None:
    path = tmp_path / "commands.json"

    def started() -> Executor:
        made = Executor()
        made.fence.memory = CommandFile(path)
        return made

    first = started()
    await first.take(0)
    await first.take(5)
    # The one of second 3 was on its way; a second process comes after the crash.
    again = started()
    late = await again.take(3)
    assert (late.status, again.did) == ("refused", [])
    assert "older than command c5 " in late.detail
    assert (await again.take(5)).status == "applied", "of which nobody knows whether it was carried out"
    assert (await again.take(6)).status == "applied"
    assert (await again.take(4, device="gpu-9")).status == "applied", "another device"


async def test_a_crash_in_the_midst_of_a_command_is_no_way_back(tmp_path: Path) -> None:
    made, file = Executor(), CommandFile(tmp_path / "commands.json")
    made.fence.memory = file
    seen: list[list[str]] = []

    async def check() -> CommandOutcome:
        seen.append([done.id for done in (await file.load()).values()])
        raise UnavailableError("away")

    command = power_command(id="c1", issuer="scheduler", fencing_token=5, at=at(0), expires_at=at(15))
    with pytest.raises(UnavailableError):
        await made.fence.carry_out(command, at(0), check, made.none)
    assert seen == [["c1"]]
    assert await file.load() == {}, "what was not carried out is none"


async def test_what_is_kept_of_commands_is_bounded_by_their_time_and_may_be_lost(tmp_path: Path) -> None:
    path = tmp_path / "commands.json"
    made = Executor()
    made.fence.memory = CommandFile(path)
    for second in range(0, 600, 10):
        await made.take(second, device=f"gpu-{second}")
    assert len(await CommandFile(path).load()) < 9
    path.write_text('{"half')
    again = Executor()
    again.fence.memory = CommandFile(path)
    assert (await again.take(601)).status == "applied"
    path.unlink()
    path.mkdir()
    assert (await again.take(602)).status == "applied", "a disk that takes nothing is no reason not to"


def test_an_audit_record_may_have_a_detail_of_any_name() -> None:
    assert record("anna", "command.drain", "n1/gpu-0", action="restore", actor="x").detail["action"] == "restore"

"""Decide which commands an executor may run: each once, and none after a newer one.

A command is rejected if it is too old, valid for too long, from a scheduler that is not the leader, or older than the
last one for the same target. A fencing token is accepted only if the leader's own key confirms it: whatever number a
command carries, it cannot lock out the real leader, nor can a recreated bucket whose revisions start over.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal, Protocol, TypeVar

from pydantic import AwareDatetime, BaseModel

from accelerator_autopilot.contracts.errors import UnavailableError
from accelerator_autopilot.contracts.messages.commands import AnyCommand, Command, CommandOutcome

log = logging.getLogger(__name__)

Status = Literal["applied", "refused", "expired"]
K = TypeVar("K")
V = TypeVar("V")

MAX_VALIDITY = timedelta(seconds=60)
# Clocks of operators and schedulers may differ by this much.
CLOCK_SKEW = timedelta(seconds=5)
MAX_REMEMBERED = 10_000


class CarriedOut(BaseModel):
    """The newest command that was run, or started, for a target."""

    id: str
    issuer: str
    at: AwareDatetime
    fencing_token: int | None = None

    @classmethod
    def of(cls, command: Command) -> CarriedOut:
        """Create the record of a command."""
        return cls(id=command.id, issuer=command.issuer, at=command.at, fencing_token=command.fencing_token)


class CommandMemory(Protocol):
    """Survives the process: after a crash, no older command must run after a newer one."""

    async def load(self) -> dict[str, CarriedOut]:
        """Return what was stored, by kind of command and target. Raises UnavailableError if it cannot be read now."""

    async def save(self, newest: dict[str, CarriedOut]) -> None:
        """Replace what is stored. Raises OSError or UnavailableError."""


@dataclass
class CommandFence:
    """Remembers which commands it accepted; with a `memory` also across crashes, for as long as commands are valid.

    `leading` returns the token of the current leader, None while there is none; without it, a token must only not
    decrease. It raises UnavailableError when that cannot be read. It is called for each command: a scheduler that
    was suspended continues in the middle of its round, and does not know that another leads by then.
    """

    highest_token: int = 0
    leading: Callable[[], Awaitable[int | None]] | None = None
    _handled: OrderedDict[str, CommandOutcome] = field(default_factory=OrderedDict)
    memory: CommandMemory | None = None
    _last: OrderedDict[str, CarriedOut] = field(default_factory=OrderedDict)
    _restored: bool = False
    _one: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def carry_out(
        self,
        command: AnyCommand,
        now: datetime,
        act: Callable[[], Awaitable[CommandOutcome]],
        turn_away: Callable[[Status, str], CommandOutcome],
    ) -> CommandOutcome:
        """Return the outcome of a command: from `act`, from `turn_away`, or its earlier one if it is a repetition.

        Raises UnavailableError when it cannot be decided yet, and whatever `act` raises.
        """
        async with self._one:
            await self._restore()
            known = self._handled.get(command.id)
            if known is not None:
                return known
            status, detail = self.judge(command, now)
            if status == "applied":
                status, detail = await self._of_the_leader(command)
            outcome = await self._act(command, now, act) if status == "applied" else turn_away(status, detail)
            _keep(self._handled, command.id, outcome)
            return outcome

    async def _act(
        self, command: AnyCommand, now: datetime, act: Callable[[], Awaitable[CommandOutcome]]
    ) -> CommandOutcome:
        """Run it; it is recorded before, since a crash may happen at any point."""
        target = _target(command)
        before = self._last.get(target)
        _keep(self._last, target, CarriedOut.of(command))
        await self._save(now)
        applied = False
        try:
            outcome = await act()
            applied = outcome.status == "applied"
        finally:
            if not applied:
                if before is None:
                    self._last.pop(target, None)
                else:
                    self._last[target] = before
                await self._save(now)
        return outcome

    async def _restore(self) -> None:
        if self.memory is not None and not self._restored:
            self._last.update(await self.memory.load())
            self._restored = True

    async def _save(self, now: datetime) -> None:
        if self.memory is None:
            return
        # Anything older than these has expired by now.
        newest = {target: done for target, done in self._last.items() if done.at > now - MAX_VALIDITY - 2 * CLOCK_SKEW}
        try:
            await self.memory.save(newest)
        except (OSError, UnavailableError) as error:
            log.warning("newest commands not persisted", extra={"error": type(error).__name__})

    def outcome_of(self, command_id: str) -> CommandOutcome | None:
        """Return the outcome of a command that was seen before, while it is remembered."""
        return self._handled.get(command_id)

    def judge(self, command: Command, now: datetime) -> tuple[Status, str]:
        """Return `applied` if the command itself permits running it; else why not."""
        if now >= command.expires_at:
            return "expired", f"expired at {command.expires_at.isoformat()}"
        valid = max(command.expires_at - command.at, command.expires_at - now - CLOCK_SKEW)
        if valid > MAX_VALIDITY:
            longest = MAX_VALIDITY.total_seconds()
            return "refused", f"valid for {valid.total_seconds():.0f} s, at most {longest:.0f} s: check the clock"
        last = self._last.get(_target(command))
        if last is not None:
            slack = timedelta(0) if last.issuer == command.issuer else CLOCK_SKEW
            # Anything older would have expired: so it is the clock that was set back.
            late = last.at - MAX_VALIDITY - CLOCK_SKEW < command.at < last.at - slack
            if late and _same_line(last, command):
                return "refused", f"older than command {last.id} of {last.at.isoformat()}, which was executed"
        token = command.fencing_token
        if self.leading is None and token is not None:
            if token < self.highest_token:
                return "refused", f"fencing token {token} is older than {self.highest_token}"
            self.highest_token = token
        return "applied", ""

    async def _of_the_leader(self, command: Command) -> tuple[Status, str]:
        token = command.fencing_token
        if self.leading is None:
            return "applied", ""
        if token is None:
            claims = command.issuer == "scheduler"
            return ("refused", "a scheduler's command carries a fencing token") if claims else ("applied", "")
        leading = await self.leading()
        if leading is None and token == self.highest_token:
            return "applied", ""  # the last leader sent it, and nobody has led since
        if leading is None:
            raise UnavailableError(f"there is no leader now: fencing token {token} will be checked again")
        if token != leading:
            return "refused", f"fencing token {token} does not belong to the leading scheduler, {leading}"
        self.highest_token = token
        return "applied", ""


def _keep(kept: OrderedDict[K, V], key: K, value: V) -> None:
    kept[key] = value
    kept.move_to_end(key)
    while len(kept) > MAX_REMEMBERED:
        kept.popitem(last=False)


def _target(command: Command) -> str:
    return f"{type(command).__name__} {getattr(command, 'target', '')}"


def _same_line(last: CarriedOut, command: Command) -> bool:
    """Whether their times can be compared: another leader has its own clock, so tokens determine the order."""
    if last.issuer != command.issuer:
        return True
    return command.fencing_token == last.fencing_token

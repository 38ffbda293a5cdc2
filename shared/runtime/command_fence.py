"""Which commands an executor may still carry out, each once and none after a newer one.

Turned away is what is too old, valid for too long, of a scheduler that does not lead, or older than what was carried
out last for the same target. A fencing token is believed only when the leader's own key says so: whatever number a
command carries, it cannot lock the real leader out, nor can a bucket that is made anew, whose revisions begin again.
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

LONGEST_VALID = timedelta(seconds=60)
# Clocks of operators and schedulers may differ by this much.
CLOCK_SKEW = timedelta(seconds=5)
MOST_REMEMBERED = 10_000


class CarriedOut(BaseModel):
    """The newest command that was carried out, or begun, for a target."""

    id: str
    issuer: str
    at: AwareDatetime
    fencing_token: int | None = None

    @classmethod
    def of(cls, command: Command) -> CarriedOut:
        """What is remembered of a command."""
        return cls(id=command.id, issuer=command.issuer, at=command.at, fencing_token=command.fencing_token)


class CommandMemory(Protocol):
    """Outlives the process: one that crashes must not carry out an older command after a newer one."""

    async def load(self) -> dict[str, CarriedOut]:
        """What was kept, by kind of command and target; nothing where that cannot be read."""

    async def save(self, newest: dict[str, CarriedOut]) -> None:
        """Keep this in its place. Raises OSError or UnavailableError."""


@dataclass
class CommandFence:
    """Remembers what it let through; with a `memory` also across a crash, for as long as commands are valid.

    `leading` reads the token of whoever leads now, None while nobody does; without it a token must only not fall.
    It raises UnavailableError when that cannot be read. It is asked for each command: a scheduler that stood still
    goes on in the middle of its round, and does not know that another leads meanwhile.
    """

    highest_token: int = 0
    leading: Callable[[], Awaitable[int | None]] | None = None
    _handled: OrderedDict[str, CommandOutcome] = field(default_factory=OrderedDict)
    memory: CommandMemory | None = None
    _last: OrderedDict[str, CarriedOut] = field(default_factory=OrderedDict)
    _recalled: bool = False
    _one: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def carry_out(
        self,
        command: AnyCommand,
        now: datetime,
        act: Callable[[], Awaitable[CommandOutcome]],
        turn_away: Callable[[Status, str], CommandOutcome],
    ) -> CommandOutcome:
        """The outcome of a command: of `act`, of `turn_away`, or the one it had when it came before.

        Raises UnavailableError when it cannot be said yet whether it may be carried out, and whatever `act` raises.
        """
        async with self._one:
            await self._recall()
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
        """Carry it out; it is written down before, for a crash may come at any moment of it."""
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

    async def _recall(self) -> None:
        if self.memory is not None and not self._recalled:
            self._last.update(await self.memory.load())
            self._recalled = True

    async def _save(self, now: datetime) -> None:
        if self.memory is None:
            return
        # Whatever is older than these has expired by now.
        newest = {target: done for target, done in self._last.items() if done.at > now - LONGEST_VALID - 2 * CLOCK_SKEW}
        try:
            await self.memory.save(newest)
        except (OSError, UnavailableError) as error:
            log.warning("newest commands not written down", extra={"error": type(error).__name__})

    def outcome_of(self, command_id: str) -> CommandOutcome | None:
        """What became of a command that was seen before, while it is remembered."""
        return self._handled.get(command_id)

    def judge(self, command: Command, now: datetime) -> tuple[Status, str]:
        """`applied` lets it through, as far as the command itself tells; else why not."""
        if now >= command.expires_at:
            return "expired", f"expired at {command.expires_at.isoformat()}"
        valid = max(command.expires_at - command.at, command.expires_at - now - CLOCK_SKEW)
        if valid > LONGEST_VALID:
            longest = LONGEST_VALID.total_seconds()
            return "refused", f"valid for {valid.total_seconds():.0f} s, at most {longest:.0f} s: check the clock"
        last = self._last.get(_target(command))
        if last is not None:
            slack = timedelta(0) if last.issuer == command.issuer else CLOCK_SKEW
            # What is older still would have expired: then it is the clock that was set back.
            late = last.at - LONGEST_VALID - CLOCK_SKEW < command.at < last.at - slack
            if late and _same_line(last, command):
                return "refused", f"older than command {last.id} of {last.at.isoformat()}, which was carried out"
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
            return "applied", ""  # whoever led last sent it, and nobody has led since
        if leading is None:
            raise UnavailableError(f"there is no leader now: fencing token {token} will be checked again")
        if token != leading:
            return "refused", f"fencing token {token} does not belong to the leading scheduler, {leading}"
        self.highest_token = token
        return "applied", ""


def _keep(kept: OrderedDict[K, V], key: K, value: V) -> None:
    kept[key] = value
    kept.move_to_end(key)
    while len(kept) > MOST_REMEMBERED:
        kept.popitem(last=False)


def _target(command: Command) -> str:
    return f"{type(command).__name__} {getattr(command, 'target', '')}"


def _same_line(last: CarriedOut, command: Command) -> bool:
    """Whether their times can be compared: of another leader, with a clock of its own, the token tells the order."""
    if last.issuer != command.issuer:
        return True
    return command.fencing_token == last.fencing_token

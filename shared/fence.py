"""Which commands an executor may still carry out, each once and none after a newer one.

Turned away is what is too old, valid for too long, of a scheduler that does not lead, or older than what was carried
out last for the same target. A fencing token is believed only when the leader's own key says so: whatever number a
command carries, it cannot lock the real leader out, nor can a bucket that is made anew, whose revisions begin again.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal, TypeVar

from shared.errors import UnavailableError
from shared.messages.commands import AnyCommand, Command, CommandOutcome

Status = Literal["applied", "refused", "expired"]
K = TypeVar("K")
V = TypeVar("V")

LONGEST_VALID = timedelta(seconds=60)
# Clocks of operators and schedulers may differ by this much.
CLOCK_SKEW = timedelta(seconds=5)
MOST_REMEMBERED = 10_000


@dataclass
class Fence:
    """Remembers what it let through.

    `leading` reads the token of whoever leads now, None while nobody does; without it a token must only not fall.
    It raises UnavailableError when that cannot be read. It is asked for each command: a scheduler that stood still
    goes on in the middle of its round, and does not know that another leads meanwhile.
    """

    highest_token: int = 0
    leading: Callable[[], Awaitable[int | None]] | None = None
    _handled: OrderedDict[str, CommandOutcome] = field(default_factory=OrderedDict)
    _last: OrderedDict[tuple[str, str], Command] = field(default_factory=OrderedDict)
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
            known = self._handled.get(command.id)
            if known is not None:
                return known
            status, detail = self.judge(command, now)
            if status == "applied":
                status, detail = await self._of_the_leader(command)
            outcome = await act() if status == "applied" else turn_away(status, detail)
            if status == "applied" and outcome.status == "applied":
                _keep(self._last, _target(command), command)
            _keep(self._handled, command.id, outcome)
            return outcome

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
            raise UnavailableError(f"nobody leads now: fencing token {token} is looked at again")
        if token != leading:
            return "refused", f"fencing token {token} is not of the scheduler that leads, {leading}"
        self.highest_token = token
        return "applied", ""


def _keep(kept: OrderedDict[K, V], key: K, value: V) -> None:
    kept[key] = value
    kept.move_to_end(key)
    while len(kept) > MOST_REMEMBERED:
        kept.popitem(last=False)


def _target(command: Command) -> tuple[str, str]:
    return type(command).__name__, str(getattr(command, "target", ""))


def _same_line(last: Command, command: Command) -> bool:
    """Whether their times can be compared: of another leader, with a clock of its own, the token tells the order."""
    if last.issuer != command.issuer:
        return True
    return command.fencing_token == last.fencing_token

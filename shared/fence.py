"""Which commands an executor may still carry out: none that is too old, none of a scheduler that no longer leads."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from shared.messages.commands import Command

Status = Literal["applied", "refused", "expired"]


@dataclass
class Fence:
    """Remembers the highest fencing token that it let through."""

    highest_token: int = 0

    def judge(self, command: Command, now: datetime) -> tuple[Status, str]:
        """`applied` lets it through; else why not."""
        if now >= command.expires_at:
            return "expired", f"expired at {command.expires_at.isoformat()}"
        token = command.fencing_token
        if token is not None and token < self.highest_token:
            return "refused", f"fencing token {token} is older than {self.highest_token}"
        self.highest_token = max(self.highest_token, token or 0)
        return "applied", ""

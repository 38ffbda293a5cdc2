"""What free space and write errors of the disk under nats-server mean. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from accelerator_autopilot.contracts.messages.alerts import Severity

MIB = 2**20
# nats-server starts anew at once, and if that does not help less and less often: a quota may refuse with room to spare.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 10.0, 300.0
QUIET_S = 900.0


@dataclass(frozen=True)
class DiskLimits:
    """Shares and bytes of free space; leaving a level takes `margin` times its limit."""

    warning_share: float = 0.10
    critical_share: float = 0.03
    full_bytes: int = 128 * MIB
    margin: float = 1.2


def severity_of(share: float, current: Severity | None, limits: DiskLimits) -> Severity | None:
    """How bad it is that this share of a disk is free, where an alert of the severity `current` may be open."""
    if share < limits.critical_share * (limits.margin if current == "critical" else 1.0):
        return "critical"
    if share < limits.warning_share * (limits.margin if current is not None else 1.0):
        return "warning"
    return None


class RestartRule:
    """When nats-server has to start anew: it goes on failing for the write error of a disk that has room again.

    `refused` says that it failed to write, and has not started anew since.
    """

    def __init__(self, limits: DiskLimits) -> None:
        self._limits = limits
        self._failed = False
        self.refused = False
        self._pause_s = FIRST_PAUSE_S
        self._not_before_s = self._restarted_s = float("-inf")

    def due(self, free: int, now_s: float, *, refused: bool) -> bool:
        """Whether to start it anew now; `refused`: a write failed, or JetStream is off. Then call `restarted`."""
        full = free < self._limits.full_bytes * (self._limits.margin if self._failed else 1.0)
        self.refused |= refused
        self._failed |= full or refused
        return self._failed and not full and now_s >= self._not_before_s

    def restarted(self, now_s: float) -> None:
        """It was; what failed before does not count any more."""
        self._failed = self.refused = False
        quiet = now_s - self._restarted_s > QUIET_S
        self._pause_s = FIRST_PAUSE_S if quiet else min(2 * self._pause_s, LONGEST_PAUSE_S)
        self._not_before_s, self._restarted_s = now_s + self._pause_s, now_s

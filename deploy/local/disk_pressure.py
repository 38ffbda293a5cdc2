"""What free space and write errors mean for the disk under nats-server. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from accelerator_autopilot.contracts.messages.alerts import Severity

MIB = 2**20
# nats-server restarts immediately, and if that does not help less and less often: a quota may reject writes on a disk
# with free space.
FIRST_PAUSE_S, MAX_PAUSE_S = 10.0, 300.0
QUIET_S = 900.0


@dataclass(frozen=True)
class DiskPressure:
    """Shares and bytes of free space; clearing a level takes `margin` times its limit."""

    warning_share: float = 0.10
    critical_share: float = 0.03
    full_bytes: int = 128 * MIB
    margin: float = 1.2


def severity_of(share: float, current: Severity | None, limits: DiskPressure) -> Severity | None:
    """Return the severity for this share of free space; `current` is the severity of an open alert, if any."""
    if share < limits.critical_share * (limits.margin if current == "critical" else 1.0):
        return "critical"
    if share < limits.warning_share * (limits.margin if current is not None else 1.0):
        return "warning"
    return None


class RestartRule:
    """Decides when nats-server has to restart: it still fails because of a disk that has space again.

    `refused` means that a write failed since its last restart.
    """

    def __init__(self, limits: DiskPressure) -> None:
        self._limits = limits
        self._failed = False
        self.refused = False
        self._pause_s = FIRST_PAUSE_S
        self._not_before_s = self._restarted_s = float("-inf")

    def due(self, free: int, now_s: float, *, refused: bool) -> bool:
        """Whether to restart now; `refused`: a write failed, or JetStream is off. Then call `restarted`."""
        full = free < self._limits.full_bytes * (self._limits.margin if self._failed else 1.0)
        self.refused |= refused
        self._failed |= full or refused
        return self._failed and not full and now_s >= self._not_before_s

    def restarted(self, now_s: float) -> None:
        """Record the restart; earlier failures no longer count."""
        self._failed = self.refused = False
        quiet = now_s - self._restarted_s > QUIET_S
        self._pause_s = FIRST_PAUSE_S if quiet else min(2 * self._pause_s, MAX_PAUSE_S)
        self._not_before_s, self._restarted_s = now_s + self._pause_s, now_s

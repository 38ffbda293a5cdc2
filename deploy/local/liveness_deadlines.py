"""How long a process may be silent before it counts as dead. Pure: times are in seconds of any clock."""

from __future__ import annotations

from dataclasses import dataclass

# Checks that are further apart than this mean that the watcher itself was suspended.
STALL_S = 10.0


@dataclass
class LivenessDeadline:
    """`start_within_s` from its start to its first answer, then `dead_after_s`.

    While the watcher itself, or the whole machine, was suspended, it heard nobody; that does not count.
    """

    start_within_s: float
    dead_after_s: float
    since: float
    looked_at: float
    answered_once: bool = False

    @classmethod
    def of(cls, start_within_s: float, dead_after_s: float, now: float) -> LivenessDeadline:
        """Create a deadline for a process that starts now."""
        return cls(start_within_s, dead_after_s, now, now)

    def begin(self, now: float) -> None:
        """Restart the deadline with the process."""
        self.since = self.looked_at = now
        self.answered_once = False

    def over(self, now: float, *, answered: bool) -> bool:
        """Whether it was silent for too long."""
        stood_s, self.looked_at = now - self.looked_at, now
        if answered:
            self.since, self.answered_once = now, True
            return False
        if stood_s > STALL_S:
            self.since += stood_s
        return self.silent_s(now) > (self.dead_after_s if self.answered_once else self.start_within_s)

    def silent_s(self, now: float) -> float:
        """Return how long it has been silent."""
        return now - self.since

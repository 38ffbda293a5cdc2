"""Find devices that fail jobs which succeed on others. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

# A fresh process may fix the failure.
TRIPS = 2
# Consecutive failures of different jobs after which a worker suspects its device, by how often that happened. Where all
# devices fail alike it is the jobs, and repeated restarts only cost time.
SUSPECT_AFTER = (3, 3, 30)
NEVER = 0


@dataclass
class _Suspect:
    trips: int = 0
    kinds: set[str] = field(default_factory=set)
    elsewhere: set[str] = field(default_factory=set)


@dataclass
class DeviceTrust:
    """Learns from workers that exited because of consecutive failures, and from successes."""

    _suspects: dict[str, _Suspect] = field(default_factory=dict)

    def tripped(self, device: str, kinds: Iterable[str]) -> None:
        """Record that a worker on a device exited after consecutive failures of these kinds."""
        suspect = self._suspects.setdefault(device, _Suspect())
        suspect.trips += 1
        suspect.kinds |= set(kinds)

    def succeeded(self, device: str, kinds: Iterable[str], after_failing_on: Iterable[str] = ()) -> None:
        """Record successes of these kinds on a device; some of the jobs had failed on others.

        Successes of other jobs of a kind prove nothing about those that fail: somebody may submit jobs that
        always do.
        """
        self._suspects.pop(device, None)
        for name in after_failing_on:
            suspect = self._suspects.get(name)
            if suspect is not None:
                suspect.elsewhere |= suspect.kinds & set(kinds)

    def forget(self, device: str) -> None:
        """Clear a device's history."""
        self._suspects.pop(device, None)

    @property
    def suspected(self) -> list[str]:
        """Return devices on which a worker gave up, with no success since."""
        return sorted(self._suspects)

    @property
    def broken(self) -> list[str]:
        """Return suspects on which a fresh process failed too, and whose failed jobs succeeded elsewhere."""
        return sorted(d for d, s in self._suspects.items() if s.trips >= TRIPS and s.elsewhere)

    def suspect_after(self, device: str) -> int:
        """Return how many consecutive failures make the next worker on a device suspect it; 0 for never."""
        trips = self._suspects[device].trips if device in self._suspects else 0
        return SUSPECT_AFTER[trips] if trips < len(SUSPECT_AFTER) else NEVER

"""Which devices fail jobs that succeed on others. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

# A fresh process may heal what the first one suffered from.
TRIPS = 2
# Failures in a row of different jobs, after which a worker suspects its device, by how often that happened to it.
# Where all devices fail alike it is the jobs, and starting anew all the time only costs.
SUSPECT_AFTER = (3, 3, 30)
NEVER = 0


@dataclass
class _Suspect:
    trips: int = 0
    kinds: set[str] = field(default_factory=set)
    elsewhere: set[str] = field(default_factory=set)


@dataclass
class DeviceTrust:
    """Learns from workers that ended because jobs failed one after another, and from successes."""

    _suspects: dict[str, _Suspect] = field(default_factory=dict)

    def tripped(self, device: str, kinds: Iterable[str]) -> None:
        """A worker on a device ended since jobs of these kinds failed there one after another."""
        suspect = self._suspects.setdefault(device, _Suspect())
        suspect.trips += 1
        suspect.kinds |= set(kinds)

    def succeeded(self, device: str, kinds: Iterable[str], after_failing_on: Iterable[str] = ()) -> None:
        """Jobs of these kinds succeeded on a device, some of which had failed on others.

        That others of their kind succeed says nothing of those that fail: somebody may submit jobs that always do.
        """
        self._suspects.pop(device, None)
        for name in after_failing_on:
            suspect = self._suspects.get(name)
            if suspect is not None:
                suspect.elsewhere |= suspect.kinds & set(kinds)

    def forget(self, device: str) -> None:
        """Trust a device anew."""
        self._suspects.pop(device, None)

    @property
    def suspected(self) -> list[str]:
        """Devices on which a worker gave up, with no success since."""
        return sorted(self._suspects)

    @property
    def broken(self) -> list[str]:
        """Suspects on which a fresh process did no better, and whose failed jobs succeeded elsewhere."""
        return sorted(d for d, s in self._suspects.items() if s.trips >= TRIPS and s.elsewhere)

    def suspect_after(self, device: str) -> int:
        """How many failures in a row make the next worker on a device suspect it; 0 for none."""
        trips = self._suspects[device].trips if device in self._suspects else 0
        return SUSPECT_AFTER[trips] if trips < len(SUSPECT_AFTER) else NEVER

"""Track which sources fail; a failing source says nothing about its devices. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from accelerator_autopilot.telemetry.samples import SourceEvent

FAILURES_TO_REPORT = 3  # consecutive samples; an exporter that restarts within two of them is not worth reporting


@dataclass
class SourceWatch:
    """Counts consecutive failures. `reasons` holds why each source currently gives no readings."""

    reasons: dict[str, str] = field(default_factory=dict)
    _failures: dict[str, int] = field(default_factory=dict)
    _hung: dict[str, list[str]] = field(default_factory=dict)
    _known: set[str] = field(default_factory=set)

    def answered(self, source: str) -> list[SourceEvent]:
        """Record that a source gave readings.

        The first time in a run is reported too: the previous run may have ended while the source failed.
        """
        events = [SourceEvent(device, "probe_recovered") for device in self._hung.pop(source, [])]
        if source not in self._known or self._failures.get(source, 0) >= FAILURES_TO_REPORT:
            events.append(SourceEvent(source, "source_recovered"))
        self._known.add(source)
        self._failures.pop(source, None)
        self.reasons.pop(source, None)
        return events

    def failed(self, source: str, reason: str) -> list[SourceEvent]:
        """Record that a source gave no readings; returns one event about the source, none about its devices."""
        self.reasons[source] = reason
        count = self._failures[source] = self._failures.get(source, 0) + 1
        return [SourceEvent(source, "source_failed", message=reason)] if count == FAILURES_TO_REPORT else []

    def hung(self, source: str, devices: Collection[str], reason: str) -> list[SourceEvent]:
        """Record that a driver call hung: its devices cannot be used either."""
        self.reasons[source] = reason
        if source in self._hung:
            return []
        self._hung[source] = sorted(devices)
        return [SourceEvent(device, "probe_hung", message=reason) for device in self._hung[source]]

    def forget(self, source: str) -> None:
        """Forget a source that the machine does not have."""
        self.reasons.pop(source, None)
        self._failures.pop(source, None)
        self._hung.pop(source, None)

    def first_time(self, source: str) -> bool:
        """Whether this failure is the first since the source last answered."""
        return self._failures.get(source, 0) <= 1

"""Which sources fail, and what is told of it: a source that fails says nothing about its devices. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from accelerator_autopilot.telemetry.samples import SourceEvent

TOLD_AFTER = 3  # samples in a row; an exporter that restarts within two of them is not worth a word


@dataclass
class SourceWatch:
    """Counts failures in a row. `reasons` holds why each source gives no readings now."""

    reasons: dict[str, str] = field(default_factory=dict)
    _failures: dict[str, int] = field(default_factory=dict)
    _hung: dict[str, list[str]] = field(default_factory=dict)
    _known: set[str] = field(default_factory=set)

    def answered(self, source: str) -> list[SourceEvent]:
        """A source gave readings.

        The first time in a run says so too: the run before may have ended while the source failed.
        """
        events = [SourceEvent(device, "probe_recovered") for device in self._hung.pop(source, [])]
        if source not in self._known or self._failures.get(source, 0) >= TOLD_AFTER:
            events.append(SourceEvent(source, "source_recovered"))
        self._known.add(source)
        self._failures.pop(source, None)
        self.reasons.pop(source, None)
        return events

    def failed(self, source: str, reason: str) -> list[SourceEvent]:
        """A source gave no readings: one event about the source, none about its devices."""
        self.reasons[source] = reason
        count = self._failures[source] = self._failures.get(source, 0) + 1
        return [SourceEvent(source, "source_failed", message=reason)] if count == TOLD_AFTER else []

    def hung(self, source: str, devices: Collection[str], reason: str) -> list[SourceEvent]:
        """A driver call of a source did not return: its devices cannot be used either."""
        self.reasons[source] = reason
        if source in self._hung:
            return []
        self._hung[source] = sorted(devices)
        return [SourceEvent(device, "probe_hung", message=reason) for device in self._hung[source]]

    def forget(self, source: str) -> None:
        """The machine has no such source after all."""
        self.reasons.pop(source, None)
        self._failures.pop(source, None)
        self._hung.pop(source, None)

    def first_time(self, source: str) -> bool:
        """Whether this failure is the first since the source last answered."""
        return self._failures.get(source, 0) <= 1

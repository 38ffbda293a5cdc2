"""One event per occurrence, though the driver, the kernel log and an exporter may all report it. Pure.

NVML misses some XIDs and the kernel log others (NVSentinel issues 155 and 195), so both are read.
"""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass, field

from accelerator_autopilot.telemetry.samples import SourceEvent

# The kernel log is read as lines arrive, an NVML event when the driver's queue is drained, and an exporter refreshes
# its page every 30 or 60 s.
PAIR_WITHIN_S = 75.0


@dataclass
class OccurrenceFilter:
    """Pairs events of several origins one to one: five XIDs that all report are five events, not fifteen, not one."""

    _occurrences: dict[tuple[str, str, int | None], deque[tuple[float, set[str]]]] = field(
        default_factory=lambda: defaultdict(deque)
    )

    def is_new(self, event: SourceEvent, now_s: float) -> bool:
        """Whether this occurrence has not been reported before."""
        if not event.origin:
            return True
        occurrences = self._occurrences[event.device, event.kind, event.code]
        while occurrences and now_s - occurrences[0][0] > PAIR_WITHIN_S:
            occurrences.popleft()
        for _, origins in occurrences:
            if event.origin not in origins:
                origins.add(event.origin)
                return False
        occurrences.append((now_s, {event.origin}))
        return True

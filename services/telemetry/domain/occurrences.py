"""One event for one occurrence, though the driver and the kernel log both tell of it. Pure.

NVML misses some XIDs and the kernel log others (NVSentinel issues 155 and 195), so both are read.
"""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass, field

from services.telemetry.ports import SourceEvent

# The kernel log is read when its line is there, an NVML event when the driver's queue is drained.
PAIR_WITHIN_S = 30.0


@dataclass
class OccurrenceFilter:
    """Pairs events of two origins one to one: five XIDs that both tell are five events, not ten, not one."""

    _unpaired: dict[tuple[str, str, int | None], deque[tuple[float, str]]] = field(
        default_factory=lambda: defaultdict(deque)
    )

    def is_new(self, event: SourceEvent, now_s: float) -> bool:
        """Whether nobody told of this occurrence before."""
        if not event.origin:
            return True
        waiting = self._unpaired[event.device, event.kind, event.code]
        while waiting and now_s - waiting[0][0] > PAIR_WITHIN_S:
            waiting.popleft()
        for position, (_, origin) in enumerate(waiting):
            if origin != event.origin:
                del waiting[position]
                return False
        waiting.append((now_s, event.origin))
        return True

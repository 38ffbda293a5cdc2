"""When to resend a pool's batch delay: how long its jobs may wait for a fuller batch. Pure: time is an argument."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from zlib import crc32

from accelerator_autopilot.contracts.messages.commands import PoolPolicy

LEASE_S = 60.0
RENEWED_FROM_S, RENEWED_BY_S = LEASE_S / 6, LEASE_S / 3
CHANGE, CHANGE_S = 0.25, 0.01  # smallest change worth a command: this share of the current value, and at least this


def bounded_s(wanted_s: float, bounds: PoolPolicy) -> float:
    """Bound a delay by the operator's limit, and by half of what a job may wait."""
    return min(max(wanted_s, 0.0), bounds.batch_delay_max_s, bounds.target_wait_s / 2)


def renewed_at_s(pool: str) -> float:
    """Return when to renew a pool's delay: delays that were sent together are not all renewed in the same round."""
    return RENEWED_FROM_S + (RENEWED_BY_S - RENEWED_FROM_S) * (crc32(pool.encode()) / 2**32)


@dataclass
class BatchDelays:
    """What each pool was last sent, and when."""

    _sent: dict[str, tuple[float, datetime]] = field(default_factory=dict)

    def due(self, pool: str, delay_s: float, now: datetime) -> bool:
        """Whether to send this delay: it changed, or the lease of the last one is running out."""
        sent_s, at = self._sent.get(pool, (0.0, now))
        changed = abs(delay_s - sent_s) > max(CHANGE * sent_s, CHANGE_S) or (delay_s == 0.0) != (sent_s == 0.0)
        return changed or (delay_s > 0.0 and (now - at).total_seconds() > renewed_at_s(pool))

    def record_sent(self, pool: str, delay_s: float, now: datetime) -> None:
        """Record that it was sent."""
        self._sent[pool] = (delay_s, now)

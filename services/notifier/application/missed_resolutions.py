"""Deliver missed resolutions: alerts that are open in a ledger but no longer in the bucket of open alerts.

Their detector or the stream lost the resolution. Nobody else would resolve them: Alertmanager would be sent a renewal
every minute.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from accelerator_autopilot.contracts.messages.alerts import Alert
from accelerator_autopilot.notifier.domain.subscription_ledger import SubscriptionLedger
from accelerator_autopilot.runtime.bus import BUS_ERRORS
from accelerator_autopilot.runtime.supervision import beat
from accelerator_autopilot.transport.direct_reads import bucket_items

log = logging.getLogger(__name__)

CHECK_INTERVAL_S = 60.0
# The detector rewrites within seconds what the bucket has lost.
MISSING_S = 600.0
# A bucket that was created after the alert does not know it; a publisher that is away for a day is gone.
MISSING_AFTER_RECREATION_S = 86_400.0
EARLY = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass
class OpenAlerts:
    """The ids of all open alerts at the last read; `at_s` is on the loop's clock, 0 before the first."""

    ids: frozenset[str] = frozenset()
    kept_since: datetime = EARLY
    at_s: float = 0.0

    async def run(self, js: JetStreamContext) -> None:
        """Read them periodically, until cancelled."""
        while True:
            beat()
            try:
                # Without its bucket nothing is known, which differs from nothing being open.
                created = (await js.stream_info("KV_open_alerts")).created
                found = await bucket_items(js, "open_alerts", Alert)
            except (NotFoundError, TimeoutError, *BUS_ERRORS) as error:
                log.info("open alerts not read", extra={"error": type(error).__name__})
            else:
                self.ids, self.kept_since = frozenset(alert.id for alert in found.values()), created or EARLY
                self.at_s = asyncio.get_running_loop().time()
            await asyncio.sleep(CHECK_INTERVAL_S)


@dataclass
class MissedResolutions:
    """Tracks since when a subscription's open alerts have been missing in the bucket."""

    time: Callable[[], float] = field(default=lambda: asyncio.get_running_loop().time())
    _seen_s: float = 0.0
    _missing_s: dict[str, float] = field(default_factory=dict)

    def check(self, ledger: SubscriptionLedger, known: OpenAlerts) -> list[str]:
        """Return alerts that have been missing for long enough."""
        if known.at_s == self._seen_s:
            return []
        self._seen_s = known.at_s
        missing = [key for key in ledger.open() if key not in known.ids]
        self._missing_s = {key: self._missing_s.get(key, known.at_s) for key in missing}
        over = []
        for key, since_s in self._missing_s.items():
            older = ledger.entries[key].alert.at >= known.kept_since
            if known.at_s - since_s >= (MISSING_S if older else MISSING_AFTER_RECREATION_S):
                log.warning("the resolution of an alert was never published", extra={"alert": key})
                over.append(key)
        return over

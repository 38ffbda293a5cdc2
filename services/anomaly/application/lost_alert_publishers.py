"""Resolve alerts of other publishers, which renew them every minute, once their publisher is gone for good.

A pool that was removed, or a product that was uninstalled from its machine, resolves nothing that it had opened. A
publisher that comes back reopens what is still wrong. Alerts of the detectors themselves are not affected.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from nats.js import JetStreamContext

from accelerator_autopilot.contracts.errors import UnavailableError
from accelerator_autopilot.contracts.messages.alerts import RENEWED_KINDS, Alert
from accelerator_autopilot.runtime.alert_publishing import BUCKET, tell
from accelerator_autopilot.runtime.bus import BUS_ERRORS, Bus
from accelerator_autopilot.runtime.supervision import beat
from accelerator_autopilot.transport.clock import Clock, utc_now
from accelerator_autopilot.transport.direct_reads import bucket_items

log = logging.getLogger(__name__)

CHECK_INTERVAL_S = 60.0
GONE_AFTER_S = 3600.0
REASON = "not renewed for an hour: its publisher is gone"


@dataclass
class LostAlertPublishers:
    """Measures how long an alert has been unchanged, so that no publisher's clock matters."""

    js: JetStreamContext
    bus: Bus
    clock: Clock = utc_now
    steady: Callable[[], float] = time.monotonic
    _seen: dict[str, tuple[str, datetime, float]] = field(default_factory=dict)

    async def run(self) -> None:
        """Check periodically, until cancelled."""
        while True:
            beat()
            try:
                await self.check()
            except (*BUS_ERRORS, TimeoutError, UnavailableError) as error:
                log.info("renewed alerts not checked", extra={"error": type(error).__name__})
            await asyncio.sleep(CHECK_INTERVAL_S)

    async def check(self) -> None:
        """Resolve what has not been renewed for GONE_AFTER_S. Raises UnavailableError and the errors of nats-py."""
        stored = await bucket_items(self.js, BUCKET, Alert)
        renewed = {key: alert for key, alert in stored.items() if alert.kind in RENEWED_KINDS}
        self._seen = {key: seen for key, seen in self._seen.items() if key in renewed}
        now_s = self.steady()
        for key, alert in renewed.items():
            identity, at, since = self._seen.get(key, ("", alert.at, now_s))
            if (identity, at) != (alert.id, alert.at):
                self._seen[key] = (alert.id, alert.at, now_s)
            elif now_s - since >= GONE_AFTER_S:
                await self._end(alert)

    async def _end(self, alert: Alert) -> None:
        now = self.clock()
        ended = alert.model_copy(
            update={"state": "resolved", "escalated": False, "at": now, "end_reason": REASON, "count": alert.count + 1}
        )
        await tell(self.bus, ended, f"{alert.id}-gone-{alert.at.isoformat()}")
        log.warning("alert", extra={"id": alert.id, "kind": alert.kind, "device": alert.device, "state": "resolved"})

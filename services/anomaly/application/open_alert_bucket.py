"""Keep the bucket of open alerts equal to the detector's state, even if it is lost, recreated or modified."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nats.js import JetStreamContext
from nats.js.errors import InvalidKeyError, KeyNotFoundError, NotFoundError

from accelerator_autopilot.anomaly.application.alert_outbox import AlertOutbox, fits
from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.errors import UnavailableError
from accelerator_autopilot.contracts.messages.alerts import Alert
from accelerator_autopilot.runtime.bus import BUS_ERRORS, Bus
from accelerator_autopilot.runtime.supervision import beat
from accelerator_autopilot.transport.direct_reads import bucket_items

log = logging.getLogger(__name__)

CHECK_INTERVAL_S = 5.0
BUCKET = "open_alerts"


@dataclass
class OpenAlertBucket:
    """Reconciles the bucket with the open alerts."""

    js: JetStreamContext
    bus: Bus
    outbox: AlertOutbox
    is_open: Callable[[], list[Alert]]
    adopt: Callable[[Sequence[Alert]], None]
    _seen: int = -1

    async def run(self) -> None:
        """Reconcile periodically, until cancelled."""
        while True:
            beat()
            await asyncio.sleep(CHECK_INTERVAL_S)
            try:
                await self.check()
            except (*BUS_ERRORS, TimeoutError, UnavailableError) as error:
                log.info("open alerts not reconciled", extra={"error": type(error).__name__})

    async def check(self) -> None:
        """Rewrite missing alerts, adopt unknown ones, remove unreadable ones."""
        # What is resolved while the bucket is read may still be in it, and must not be mistaken for another
        # publisher's.
        ours = {*self._known(), *self._on_the_way()}
        try:
            state = (await self.js.stream_info(f"KV_{BUCKET}", subjects_filter=f"$KV.{BUCKET}.>")).state
        except NotFoundError:
            # Whoever starts or watches recreates it.
            self._seen = -1
            return
        kept = {subject.removeprefix(f"$KV.{BUCKET}.") for subject in state.subjects or {}}
        # Those of the queue janitor are not ours.
        kept = {key for key in kept if not key.startswith(f"{subjects.CLUSTER}.")}
        known = self._known()
        ours |= {*known, *self._on_the_way()}
        if state.last_seq == self._seen and known.keys() <= kept:
            return
        stored = await bucket_items(self.js, BUCKET, Alert)
        lost = [a for key, a in known.items() if key not in stored or stored[key].id != a.id]
        for alert in lost:
            if not self.outbox.waits((alert.node, alert.device, alert.kind)):
                log.warning("open alert was missing in the bucket; rewriting it", extra={"id": alert.id})
                self.outbox.keep(alert)
        unknown = kept - ours - self._on_the_way()
        self.adopt([stored[key] for key in sorted(unknown & stored.keys())])
        for key in unknown - stored.keys():
            if await self._holds(key):
                log.warning("stored alert is unreadable; removing it", extra={"key": key})
                await self.bus.delete(BUCKET, key)
        self._seen = state.last_seq if not lost else -1

    async def _holds(self, key: str) -> bool:
        """Whether the key has a value: a removed key keeps its subject, and removing it again would add a marker."""
        try:
            await (await self.js.key_value(BUCKET)).get(key)
        except KeyNotFoundError:
            return False
        except InvalidKeyError:
            return True
        return True

    def _known(self) -> dict[str, Alert]:
        return {subjects.alert_key(a.node, a.device, a.kind): a for a in self.is_open() if fits(a)}

    def _on_the_way(self) -> set[str]:
        return {subjects.alert_key(*key) for key in self.outbox.on_the_way}

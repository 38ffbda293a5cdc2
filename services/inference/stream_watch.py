"""How full the streams are: a metric of each, and an alert before one that holds jobs or results has no room."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from nats.js import JetStreamContext
from nats.js.errors import NotFoundError
from prometheus_client import CollectorRegistry, Gauge

from services.inference.domain.fill_alarm import severity_of
from shared import subjects
from shared.bus import BUS_ERRORS, Bus
from shared.clock import Clock, utc_now
from shared.errors import UnavailableError
from shared.ids import new_id
from shared.messages.alerts import Alert, Evidence, Severity
from shared.open_alerts import BUCKET, tell
from shared.streams import OBJECT_STORES, STREAMS
from shared.supervision import beat

log = logging.getLogger(__name__)

PERIOD_S = 5.0
KIND = "stream_full"
BOUNDED = (*(s.name or "" for s in STREAMS if (s.max_bytes or 0) > 0), *(f"OBJ_{s.bucket}" for s in OBJECT_STORES))
# What happens at the limit, and what to do.
_WATCHED = {
    "RESULTS": "workers hold what they have finished and take no more jobs; raise AUTOPILOT_RESULTS_MIB, or submit "
    "with a shorter result_ttl_s",
    "JOBS": "jobs are refused; add workers, or look for why none takes them",
    "DEAD": "the oldest dead letters are dropped; look at `autopilot dead`, and purge what is settled",
    "OBJ_payloads": "large jobs and results are refused or held; submit with shorter ttl_s and result_ttl_s",
}


@dataclass
class StreamWatch:
    """Looks while `leads()`. Which alerts are open is read from the bucket, so another leader goes on with them."""

    js: JetStreamContext
    bus: Bus
    registry: CollectorRegistry
    leads: Callable[[], bool]
    clock: Clock = utc_now
    _filled: Gauge = field(init=False)

    def __post_init__(self) -> None:
        self._filled = Gauge(
            "autopilot_stream_fill_ratio", "of the bytes that a stream may hold", ["stream"], registry=self.registry
        )

    async def run(self) -> None:
        """Look now and then, until cancelled."""
        while True:
            beat()
            if self.leads():
                try:
                    await self.look()
                except (UnavailableError, *BUS_ERRORS) as error:
                    log.info("streams not looked at", extra={"error": type(error).__name__})
            else:
                self._filled.clear()
            await asyncio.sleep(PERIOD_S)

    async def look(self) -> None:
        """Measure every stream, and open, change or end its alert. Raises UnavailableError and nats-py's errors."""
        for stream in BOUNDED:
            try:
                info = await self.js.stream_info(stream)
            except NotFoundError:
                continue
            most = info.config.max_bytes or 0
            if most > 0:
                ratio = info.state.bytes / most
                self._filled.labels(stream).set(ratio)
                if stream in _WATCHED:
                    await self._tell(stream, ratio, most)

    async def _tell(self, stream: str, ratio: float, most: int) -> None:
        device = f"stream {stream}"
        key = subjects.alert_key(subjects.CLUSTER, device, KIND)
        known = await self.bus.read(BUCKET, key, Alert)
        severity = severity_of(ratio, known.severity if known else None)
        if severity == (known.severity if known else None):
            return
        alert = self._alert(stream, device, ratio, most, known, severity)
        log.warning("stream fills", extra={"stream": stream, "ratio": round(ratio, 3), "state": alert.state})
        identity = f"{alert.id}-{alert.state}-{alert.at.isoformat()}"
        await tell(self.bus, alert, identity)

    def _alert(
        self, stream: str, device: str, ratio: float, most: int, known: Alert | None, severity: Severity | None
    ) -> Alert:
        now = self.clock()
        evidence = Evidence(metric="stream_fill_ratio", value=ratio, expected="below 0.8", at=now)
        summary = f"{stream} is filled to {ratio:.0%} of {most / 2**20:.0f} MiB"
        if known is None:
            return Alert(
                id=new_id(), node=subjects.CLUSTER, device=device, kind=KIND, severity=severity or "warning",
                state="opened", summary=summary, action=f"At its limit {_WATCHED[stream]}.", evidence=[evidence],
                opened_at=now, at=now,
            )  # fmt: skip
        changes = {"summary": summary, "evidence": [evidence], "at": now, "count": known.count + 1}
        if severity is None:
            return known.model_copy(update=changes | {"state": "resolved", "escalated": False})
        worse = severity == "critical"
        changes |= {"state": "updated", "severity": severity, "escalated": worse}
        return known.model_copy(update=changes | ({"worsened_at": now} if worse else {}))

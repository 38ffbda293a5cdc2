"""Monitor how full the streams are: a metric for each, and an alert before one with jobs or results is full."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from nats.js import JetStreamContext
from nats.js.errors import NotFoundError
from prometheus_client import CollectorRegistry, Gauge

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.errors import UnavailableError
from accelerator_autopilot.contracts.messages.alerts import STREAM_FULL, Evidence
from accelerator_autopilot.contracts.streams import OBJECT_STORES, STREAMS
from accelerator_autopilot.inference.pool.domain.stream_fill_alarm import severity_of
from accelerator_autopilot.runtime.bus import BUS_ERRORS, Bus
from accelerator_autopilot.runtime.condition_alerts import Condition, ConditionAlerts
from accelerator_autopilot.runtime.supervision import beat
from accelerator_autopilot.transport.clock import Clock, utc_now

log = logging.getLogger(__name__)

PERIOD_S = 5.0
KIND = STREAM_FULL
BOUNDED = (*(s.name or "" for s in STREAMS if (s.max_bytes or 0) > 0), *(f"OBJ_{s.bucket}" for s in OBJECT_STORES))
# What happens at the limit, and what to do.
_WATCHED = {
    "RESULTS": "workers keep finished results and take no more jobs; raise AUTOPILOT_RESULTS_MIB, or submit jobs "
    "with a shorter result_ttl_s",
    "JOBS": "jobs are rejected; add workers, or find out why none takes jobs",
    "DEAD": "the oldest dead letters are dropped; check `autopilot dead`, and delete those that are resolved",
    "OBJ_payloads": "large jobs and results are rejected or delayed; use a shorter ttl_s and result_ttl_s",
}


@dataclass
class StreamUsage:
    """Monitors streams while `leads()`. A new leader reads which alerts are open and continues with them."""

    js: JetStreamContext
    bus: Bus
    registry: CollectorRegistry
    leads: Callable[[], bool]
    clock: Clock = utc_now
    _filled: Gauge = field(init=False)
    _alerts: ConditionAlerts = field(init=False)

    def __post_init__(self) -> None:
        self._alerts = ConditionAlerts(
            self.bus, lambda a: (a.node, a.kind) == (subjects.CLUSTER, KIND), actor="pool", clock=self.clock
        )
        self._filled = Gauge(
            "autopilot_stream_fill_ratio", "share of a stream's size limit in use", ["stream"], registry=self.registry
        )

    async def run(self) -> None:
        """Check periodically until cancelled."""
        while True:
            beat()
            if self.leads():
                try:
                    await self.check()
                except (UnavailableError, *BUS_ERRORS) as error:
                    log.info("streams not checked", extra={"error": type(error).__name__})
            else:
                self._filled.clear()
                self._alerts.forget()
            await asyncio.sleep(PERIOD_S)

    async def check(self) -> None:
        """Measure every stream, and open, update or resolve its alert. Raises UnavailableError and nats-py's errors."""
        await self._alerts.restore()
        found: list[Condition] = []
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
                    found += self._condition(stream, ratio, most)
        await self._alerts.settle(found)

    def _condition(self, stream: str, ratio: float, most: int) -> list[Condition]:
        device = f"stream {stream}"
        severity = severity_of(ratio, self._alerts.severity((subjects.CLUSTER, device, KIND)))
        if severity is None:
            return []
        evidence = Evidence(metric="stream_fill_ratio", value=ratio, expected="below 0.8", at=self.clock())
        summary = f"{stream} is {ratio:.0%} full ({most / 2**20:.0f} MiB)"
        action = f"When it is full, {_WATCHED[stream]}."
        return [Condition(subjects.CLUSTER, device, KIND, severity, summary, action, (evidence,))]

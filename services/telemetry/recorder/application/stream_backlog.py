"""How close the stream is to dropping unwritten frames: warned about before, counted after."""

from __future__ import annotations

import logging
from datetime import datetime

from nats.js import JetStreamContext
from prometheus_client import CollectorRegistry, Counter, Gauge

from accelerator_autopilot.runtime.health import HealthState

log = logging.getLogger(__name__)

WARN_AT = 0.8


class StreamBacklog:
    """Monitors TELEMETRY and the recorders' position in it."""

    def __init__(self, stream: str, durable: str, health: HealthState, registry: CollectorRegistry) -> None:
        self._stream, self._durable, self._health = stream, durable, health
        self._used = Gauge(
            "autopilot_stream_used_ratio", "share of the stream's age and size limits taken by unwritten frames",
            registry=registry,
        )  # fmt: skip
        self._dropped = Counter(
            "autopilot_frames_dropped_unwritten", "frames dropped by the stream before they were written",
            registry=registry,
        )  # fmt: skip
        self._first_lost: int | None = None

    async def check(self, js: JetStreamContext, now: datetime) -> float:
        """Return the share used, 0 to 1; unready above WARN_AT. Raises the errors of nats-py."""
        stream = await js.stream_info(self._stream)
        consumer = await js.consumer_info(self._stream, self._durable)
        state, config = stream.state, stream.config
        written = consumer.ack_floor.stream_seq if consumer.ack_floor else 0
        self._count_dropped(state.first_seq, written)
        waiting = max(0, state.last_seq - max(written, state.first_seq - 1))
        used = 0.0
        if waiting:
            by_size = state.bytes * waiting / max(1, state.messages) / max(1, config.max_bytes or 1)
            oldest = await js.get_msg(self._stream, seq=max(written + 1, state.first_seq), direct=True)
            age_s = (now - oldest.time).total_seconds() if oldest.time else 0.0
            used = max(by_size, age_s / (config.max_age or float("inf")))
        self._used.set(used)
        reason = f"{used:.0%} of what the stream keeps is not written yet: frames will be dropped"
        self._health.report("stream headroom", ok=used < WARN_AT, reason=reason)
        if used >= WARN_AT:
            log.error(
                "stream will drop frames that are not written", extra={"used": round(used, 3), "waiting": waiting}
            )
        return used

    def _count_dropped(self, first: int, written: int) -> None:
        """Count frames that are missing between the last written one and the first one left."""
        begin = max(written + 1, self._first_lost or 0)
        if first > begin and written > 0:
            self._dropped.inc(first - begin)
            log.error("frames were dropped before they were written", extra={"frames": first - begin})
        self._first_lost = max(first, self._first_lost or 0)

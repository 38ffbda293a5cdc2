"""Reads the fleet: pools, queues, alerts, policy, and the newest samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from services.scheduler.domain.observation import PoolObservation
from shared.client.reading import bucket_items
from shared.frames import TelemetryFrame
from shared.messages.alerts import Alert
from shared.messages.commands import FleetPolicy
from shared.messages.jobs import PRIORITIES, PoolStatus
from shared.messages.telemetry import DeviceInfo, NodeInventory
from shared.streams import job_durable

SERVICE_MEMORY = 0.3


@dataclass
class _PoolTrack:
    """What was seen of a pool before, to make rates of counters."""

    at: datetime | None = None
    delivered: int = 0
    backlog: int = 0
    done: dict[str, tuple[int, float]] = field(default_factory=dict)
    service_s: float | None = None


@dataclass
class FleetReader:
    """Turns what the bus holds into observations."""

    js: JetStreamContext
    stale_after_s: float
    frames: dict[str, tuple[datetime, TelemetryFrame]] = field(default_factory=dict)
    _tracks: dict[str, _PoolTrack] = field(default_factory=dict)

    def on_frame(self, frame: TelemetryFrame, now: datetime) -> None:
        """Keep the newest frame of each node."""
        self.frames[frame.node] = (now, frame)

    async def pools(self, now: datetime) -> list[PoolStatus]:
        """Pools that reported lately."""
        found = (await bucket_items(self.js, "pools", PoolStatus)).values()
        return [p for p in found if (now - p.at).total_seconds() <= self.stale_after_s]

    async def critical(self) -> set[tuple[str, str]]:
        """Devices with an open critical alert."""
        alerts = (await bucket_items(self.js, "open_alerts", Alert)).values()
        return {(a.node, a.device) for a in alerts if a.severity == "critical"}

    async def devices(self) -> dict[tuple[str, str], DeviceInfo]:
        """Every device of every node."""
        inventories = (await bucket_items(self.js, "inventory", NodeInventory)).values()
        return {(i.node, d.device): d for i in inventories for d in i.devices}

    def caps_now_w(self, now: datetime) -> dict[tuple[str, str], float]:
        """Caps that devices told lately."""
        return {
            (node, device): sample["power_cap_w"]
            for node, (at, frame) in self.frames.items()
            if (now - at).total_seconds() <= self.stale_after_s
            for device, sample in frame.latest().items()
            if "power_cap_w" in sample
        }

    async def observe(self, status: PoolStatus, policy: FleetPolicy, now: datetime) -> PoolObservation | None:
        """A pool as a policy sees it; None while its queue cannot be read."""
        waiting = delivered = 0
        for kind in status.kinds:
            for priority in PRIORITIES:
                try:
                    info = await self.js.consumer_info("JOBS", job_durable(kind, priority).durable_name or "")
                except NotFoundError:
                    return None
                waiting += (info.num_pending or 0) + (info.num_ack_pending or 0)
                delivered += info.delivered.consumer_seq if info.delivered else 0
        track = self._tracks.setdefault(f"{status.pool}.{status.node}", _PoolTrack())
        rate = 0.0
        if track.at is not None and now > track.at:
            came = (delivered - track.delivered) + (waiting - track.backlog)
            rate = max(0.0, came / (now - track.at).total_seconds())
        track.at, track.delivered, track.backlog = now, delivered, waiting
        self._learn_service(track, status)
        return PoolObservation(
            pool=status.pool,
            at=now,
            desired=status.desired,
            backlog=waiting,
            arrival_rate=rate,
            ready=sum(w.state == "ready" for w in status.workers),
            starting=sum(w.state == "starting" for w in status.workers),
            service_s=track.service_s,
            bounds=policy.pool(status.pool),
        )

    @staticmethod
    def _learn_service(track: _PoolTrack, status: PoolStatus) -> None:
        current: Mapping[str, tuple[int, float]] = {w.worker: (w.jobs_done, w.busy_s) for w in status.workers}
        done = sum(n - track.done.get(name, (0, 0.0))[0] for name, (n, _) in current.items())
        busy = sum(b - track.done.get(name, (0, 0.0))[1] for name, (_, b) in current.items())
        track.done = dict(current)
        if done > 0 and busy >= 0:
            fresh = busy / done
            old = track.service_s if track.service_s is not None else fresh
            track.service_s = old + SERVICE_MEMORY * (fresh - old)

"""Reads the fleet: pools, queues, alerts, and the newest samples."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from nats.js import JetStreamContext
from nats.js.errors import NotFoundError
from pydantic import ValidationError

from services.scheduler.adapters.pool_tracks import PoolTrack, QueueCount
from services.scheduler.domain.drains import AlertSight
from services.scheduler.domain.observation import PoolObservation
from services.scheduler.domain.power_curves import PowerCurve, curve_of
from shared import subjects
from shared.client.reading import bucket_items, bucket_values
from shared.errors import UnavailableError
from shared.frames import TelemetryFrame
from shared.messages.alerts import Alert
from shared.messages.commands import PoolPolicy
from shared.messages.jobs import PRIORITIES, PoolStatus
from shared.messages.telemetry import DeviceInfo, NodeInventory
from shared.streams import job_durable

Device = tuple[str, str]
MOST_SLOTS = 16  # no policy was trained on more
OPEN_ALERTS = "open_alerts"
GONE_AFTER = 6  # times `stale_after_s`: longer than a pool takes to restart or a broker to come back


@dataclass
class FleetReader:
    """Turns what the bus holds into observations."""

    js: JetStreamContext
    stale_after_s: float
    frames: dict[str, tuple[datetime, TelemetryFrame]] = field(default_factory=dict)
    held: set[str] = field(default_factory=set)
    boots: dict[str, str] = field(default_factory=dict)
    _inventory: tuple[int, dict[Device, DeviceInfo]] = (-1, {})
    _tracks: dict[str, PoolTrack] = field(default_factory=dict)

    def on_frame(self, frame: TelemetryFrame, now: datetime) -> None:
        """Keep the newest frame of each node."""
        self.frames[frame.node] = (now, frame)

    async def pools(self, now: datetime) -> dict[str, list[PoolStatus]]:
        """Pools with their part on every node.

        A pool of which a part went silent lately is left out: what its others show is not the whole, and to
        decide on it would double or empty it. A part that stays silent is gone, and the others are the pool.
        """
        found = (await bucket_items(self.js, "pools", PoolStatus)).values()
        parts: defaultdict[str, list[PoolStatus]] = defaultdict(list)
        uncertain: set[str] = set()
        for part in sorted(found, key=lambda p: p.node):
            silent_s = (now - part.at).total_seconds()
            if silent_s <= self.stale_after_s:
                parts[part.pool].append(part)
            elif silent_s <= GONE_AFTER * self.stale_after_s:
                uncertain.add(part.pool)
        self.held = uncertain & set(parts)
        return {pool: each for pool, each in parts.items() if pool not in uncertain}

    async def critical(self) -> AlertSight:
        """What the open alerts say of devices. Raises UnavailableError while there is nothing to read them from."""
        try:
            info = await self.js.stream_info(f"KV_{OPEN_ALERTS}")
        except NotFoundError as error:
            raise UnavailableError("the bucket of open alerts is gone: no device is drained or restored") from error
        critical: dict[Device, datetime] = {}
        doubtful: set[Device] = set()
        for key, value in (await bucket_values(self.js, OPEN_ALERTS)).items():
            try:
                alert = Alert.model_validate_json(value)
            except ValidationError:
                doubtful |= _device_of(key)
                continue
            if alert.severity == "critical":
                device, since = (alert.node, alert.device), alert.worsened_at or alert.opened_at
                critical[device] = max(since, critical.get(device, since))
        return AlertSight(critical, doubtful, info.created)

    async def devices(self) -> dict[Device, DeviceInfo]:
        """Every device of every node; the same object while nothing changed."""
        written = (await self.js.stream_info("KV_inventory")).state.last_seq
        if written != self._inventory[0]:
            inventories = (await bucket_items(self.js, "inventory", NodeInventory)).values()
            found = {(i.node, d.device): d for i in inventories for d in i.devices}
            self.boots = {i.node: i.boot_id for i in inventories}
            # Nodes report again and again: what says the same stays the same object.
            self._inventory = written, self._inventory[1] if found == self._inventory[1] else found
        return self._inventory[1]

    def samples(self, metric: str, now: datetime) -> dict[Device, float]:
        """A metric that devices told lately."""
        return {
            (node, device): sample[metric]
            for node, (at, frame) in self.frames.items()
            if (now - at).total_seconds() <= self.stale_after_s
            for device, sample in frame.latest().items()
            if metric in sample
        }

    async def observe(
        self,
        pool: str,
        parts: Sequence[PoolStatus],
        devices: Mapping[Device, DeviceInfo],
        power_w: Mapping[Device, float],
        bounds: PoolPolicy,
        now: datetime,
    ) -> PoolObservation | None:
        """A pool as a policy sees it; None while its queue cannot be read."""
        queue = await self._queue({kind for part in parts for kind in part.kinds})
        if queue is None:
            return None
        progress = self._tracks.setdefault(pool, PoolTrack()).look(queue, parts, now)
        workers = [(part.node, w) for part in parts for w in part.workers]
        used = sorted({(node, device) for node, w in workers for device in w.device.split("+")})
        return PoolObservation(
            pool=pool,
            at=now,
            desired=sum(part.desired for part in parts),
            ready=sum(w.state == "ready" for _, w in workers),
            starting=sum(w.state == "starting" for _, w in workers),
            busy=sum(bool(w.running) for _, w in workers),
            waiting=progress.waiting,
            oldest_wait_s=progress.oldest_wait_s,
            arrivals=progress.arrivals,
            completions=progress.completions,
            service_s=progress.service_s,
            load_time_s=progress.load_time_s or bounds.load_time_s,
            power_w=sum(power_w.get(device, 0.0) for device in used),
            bounds=bounds,
            curve=_curve([devices[d] for d in used if d in devices]),
            slots=min(progress.slots, MOST_SLOTS),
            devices=used,
        )

    async def _queue(self, kinds: set[str]) -> QueueCount | None:
        pending = in_hand = delivered = redelivered = 0
        for kind in sorted(kinds):
            for priority in PRIORITIES:
                try:
                    info = await self.js.consumer_info("JOBS", job_durable(kind, priority).durable_name or "")
                except NotFoundError:
                    return None
                pending += info.num_pending or 0
                in_hand += info.num_ack_pending or 0
                delivered += info.delivered.consumer_seq if info.delivered else 0
                redelivered += info.num_redelivered or 0
        return QueueCount(pending, in_hand, delivered, redelivered)


def _device_of(key: str) -> set[Device]:
    """The device that a key of an alert is about."""
    tokens = key.split(".")
    return {(subjects.untoken(tokens[0]), subjects.untoken(tokens[1]))} if len(tokens) == 3 else set()


def _curve(devices: Sequence[DeviceInfo]) -> PowerCurve:
    """Of the model that most of them are; devices of other models follow at the same power level."""
    if not devices:
        return curve_of("", None, None)
    model, _ = Counter(d.model for d in devices).most_common(1)[0]
    typical = next(d for d in devices if d.model == model)
    return curve_of(model, typical.power_default_w, typical.power_min_w)

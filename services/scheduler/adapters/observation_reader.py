"""Read the state of the fleet: pools, queues, alerts, and the newest samples."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime

from nats.js import JetStreamContext
from nats.js.errors import NotFoundError
from pydantic import ValidationError

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.errors import UnavailableError
from accelerator_autopilot.contracts.messages.alerts import Alert
from accelerator_autopilot.contracts.messages.commands import PoolPolicy
from accelerator_autopilot.contracts.messages.jobs import PoolStatus
from accelerator_autopilot.contracts.messages.telemetry import NodeInventory
from accelerator_autopilot.runtime.cooperative_loops import CooperativeLoop
from accelerator_autopilot.scheduler.adapters.latest_frames import LatestFrames
from accelerator_autopilot.scheduler.adapters.pool_rates import PoolRates
from accelerator_autopilot.scheduler.adapters.pool_workers import PoolWorkers
from accelerator_autopilot.scheduler.adapters.queue_counts import Queues, queue_counts
from accelerator_autopilot.scheduler.domain.device_facts import DeviceRegistry
from accelerator_autopilot.scheduler.domain.drain_decisions import CriticalAlerts, Device
from accelerator_autopilot.scheduler.domain.latest_readings import Readings
from accelerator_autopilot.scheduler.domain.observation import PoolObservation
from accelerator_autopilot.transport.bucket_changes import BucketChanges
from accelerator_autopilot.transport.unreadable_values import parse_value

MAX_SLOTS = 16  # no policy was trained with more
OPEN_ALERTS = "open_alerts"
GONE_AFTER = 6  # times `stale_after_s`: longer than a pool takes to restart or a broker to recover
READ_METRICS = ("power_w", "temp_c", "power_cap_w")


@dataclass
class FleetReader:
    """Turns what the bus holds into observations. Each round reads only what was written since the previous one."""

    js: JetStreamContext
    stale_after_s: float
    frames: LatestFrames
    held: set[str] = field(default_factory=set)
    _book: DeviceRegistry = field(default_factory=DeviceRegistry)
    _nodes: dict[str, str] = field(default_factory=dict)  # by key of the inventory
    _parts: dict[str, PoolStatus] = field(default_factory=dict)
    _texts: dict[str, tuple[bytes, bytes]] = field(default_factory=dict)
    _alerts: dict[str, Alert | None] = field(default_factory=dict)  # None: unreadable
    _queues: Queues = field(default_factory=lambda: Queues({}))
    _tracks: dict[str, PoolRates] = field(default_factory=dict)
    _crews: dict[str, PoolWorkers] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._of_pools = BucketChanges(self.js, "pools")
        self._of_inventory = BucketChanges(self.js, "inventory")
        self._of_alerts = BucketChanges(self.js, OPEN_ALERTS)

    async def refresh(self) -> None:
        """Read the newest frames and queue counts. Raises UnavailableError."""
        await self.frames.read()
        self._queues = Queues(await queue_counts(self.js._nc))  # noqa: SLF001  it has no other name

    async def pools(self, now: datetime) -> dict[str, list[PoolStatus]]:
        """Return pools with their status on every node. Raises UnavailableError.

        A pool of which one node recently fell silent is left out: the others do not show the whole pool, and
        deciding on them would double or empty it. A node that stays silent is gone, and the others are the
        pool.
        """
        turns = CooperativeLoop()
        for key, value in (await self._of_pools.changes()).items():
            part = None if value is None else self._part(key, value)
            if part is None:
                self._parts.pop(key, None)
                self._texts.pop(key, None)
            else:
                self._parts[key] = part
            await turns.give()
        parts: defaultdict[str, list[PoolStatus]] = defaultdict(list)
        uncertain: set[str] = set()
        for part in sorted(self._parts.values(), key=lambda p: p.node):
            silent_s = (now - part.at).total_seconds()
            if silent_s <= self.stale_after_s:
                parts[part.pool].append(part)
            elif silent_s <= GONE_AFTER * self.stale_after_s:
                uncertain.add(part.pool)
        self.held = uncertain & set(parts)
        return {pool: each for pool, each in parts.items() if pool not in uncertain}

    def _part(self, key: str, value: bytes) -> PoolStatus | None:
        """Return a node's status; when only its time changed, which is usual, only the time is parsed."""
        before, (head, at, tail) = self._texts.get(key), split_at_time(value)
        if before == (head, tail):
            with suppress(ValueError):
                return self._parts[key].model_copy(update={"at": datetime.fromisoformat(at.decode())})
        self._texts[key] = head, tail
        return parse_value("pools", key, value, PoolStatus)

    async def critical(self) -> CriticalAlerts:
        """Return what the open alerts say about devices. Raises UnavailableError while they cannot be read."""
        try:
            created = (await self.js.stream_info(f"KV_{OPEN_ALERTS}")).created
        except NotFoundError as error:
            await self._of_alerts.forget()
            raise UnavailableError(
                "the bucket of open alerts does not exist: no device is drained or restored"
            ) from error
        turns = CooperativeLoop()
        for key, value in (await self._of_alerts.changes()).items():
            if value is None:
                self._alerts.pop(key, None)
            else:
                self._alerts[key] = _alert(value)
            await turns.give()
        critical: dict[Device, datetime] = {}
        doubtful: set[Device] = set()
        for key, alert in self._alerts.items():
            if alert is None:
                doubtful |= _device_of(key)
            elif alert.severity == "critical":
                device, since = (alert.node, alert.device), alert.worsened_at or alert.opened_at
                critical[device] = max(since, critical.get(device, since))
        return CriticalAlerts(critical, doubtful, created)

    async def devices(self) -> DeviceRegistry:
        """Return every device of every node. Raises UnavailableError."""
        turns = CooperativeLoop()
        for key, value in (await self._of_inventory.changes()).items():
            inventory = None if value is None else parse_value("inventory", key, value, NodeInventory)
            if inventory is not None:
                self._nodes[key] = inventory.node
                self._book.take(inventory.node, inventory.boot_id, inventory.devices)
            elif key in self._nodes:
                self._book.forget(self._nodes.pop(key))
            await turns.give()
        return self._book

    def samples(self, metric: str, now: datetime) -> Readings:
        """Return the recent readings of a metric."""
        return self.frames.columns.readings(metric, now.timestamp() - self.stale_after_s)

    def observe(
        self,
        pool: str,
        parts: Sequence[PoolStatus],
        devices: DeviceRegistry,
        power_w: Readings,
        bounds: PoolPolicy,
        power_level: float,
        now: datetime,
    ) -> PoolObservation | None:
        """Return a pool as a policy sees it; None while its queue cannot be read."""
        queue = self._queues.of(parts[0].kinds if len(parts) == 1 else [kind for part in parts for kind in part.kinds])
        if queue is None:
            return None
        track = self._tracks.get(pool)
        if track is None:
            track = self._tracks[pool] = PoolRates()
        progress = track.update(queue, parts, now)
        crew = self._crews.get(pool)
        if crew is None or not crew.is_of(parts, devices):
            crew = self._crews[pool] = PoolWorkers.of(parts, devices)
        return PoolObservation(
            pool=pool,
            at=now,
            desired=parts[0].desired if len(parts) == 1 else sum(part.desired for part in parts),
            ready=crew.ready,
            starting=crew.starting,
            busy=crew.busy,
            waiting=progress.waiting,
            oldest_wait_s=progress.oldest_wait_s,
            arrivals=progress.arrivals,
            completions=progress.completions,
            service_s=progress.service_s,
            load_time_s=progress.load_time_s or bounds.load_time_s,
            power_w=power_w.total(crew.devices),
            bounds=bounds,
            power_level=power_level,
            curve=crew.curve,
            slots=min(progress.slots, MAX_SLOTS),
            devices=crew.devices,
        )


def split_at_time(value: bytes) -> tuple[bytes, bytes, bytes]:
    """Split a status into the bytes before, in and after its time."""
    head, _, rest = value.partition(b'"at":"')
    at, _, tail = rest.partition(b'"')
    return head, at, tail


def _device_of(key: str) -> set[Device]:
    """Return the device that an alert's key refers to."""
    tokens = key.split(".")
    return {(subjects.untoken(tokens[0]), subjects.untoken(tokens[1]))} if len(tokens) == 3 else set()


def _alert(value: bytes) -> Alert | None:
    try:
        return Alert.model_validate_json(value)
    except ValidationError:
        return None

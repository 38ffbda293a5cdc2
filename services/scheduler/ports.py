"""What the scheduler needs from outside: the fleet as it is and as it was."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from accelerator_autopilot.contracts.messages.commands import PoolPolicy
from accelerator_autopilot.contracts.messages.jobs import PoolStatus
from accelerator_autopilot.scheduler.domain.device_columns import Readings
from accelerator_autopilot.scheduler.domain.device_registry import DeviceRegistry
from accelerator_autopilot.scheduler.domain.draining import CriticalAlerts
from accelerator_autopilot.scheduler.domain.fleet_history import FleetHistory, JobTotals
from accelerator_autopilot.scheduler.domain.observation import PoolObservation


class FleetState(Protocol):
    """The fleet as it is now."""

    @property
    def held(self) -> Collection[str]:
        """Pools that `pools` left out last, because a part of theirs went silent."""

    async def look(self) -> None:
        """Take in the newest frames and what the queues say. Raises UnavailableError."""

    async def pools(self, now: datetime) -> Mapping[str, Sequence[PoolStatus]]:
        """Pools with their part on every node. Raises UnavailableError."""

    async def critical(self) -> CriticalAlerts:
        """What the open alerts say of devices. Raises UnavailableError."""

    async def devices(self) -> DeviceRegistry:
        """Every device of every node. Raises UnavailableError."""

    def samples(self, metric: str, now: datetime) -> Readings:
        """A metric that devices told lately."""

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
        """A pool as a policy sees it; None while its queue cannot be read."""


class PastReader(Protocol):
    """The fleet as it was."""

    async def read_past(self, since: datetime, until: datetime) -> FleetHistory:
        """A span of the fleet. Raises UnavailableError."""

    async def read_block(
        self, since: datetime, until: datetime, slack_s: Mapping[str, float], default_slack_s: float
    ) -> JobTotals:
        """Jobs that were submitted in the span; late is who waited longer than the slack of its pool, in seconds.

        Raises UnavailableError.
        """

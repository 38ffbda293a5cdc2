"""Ports of the scheduler: the fleet's present state and its history."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from accelerator_autopilot.contracts.messages.commands import PoolPolicy
from accelerator_autopilot.contracts.messages.jobs import PoolStatus
from accelerator_autopilot.scheduler.domain.device_facts import DeviceRegistry
from accelerator_autopilot.scheduler.domain.drain_decisions import CriticalAlerts
from accelerator_autopilot.scheduler.domain.fleet_history import FleetHistory, JobTotals
from accelerator_autopilot.scheduler.domain.latest_readings import Readings
from accelerator_autopilot.scheduler.domain.observation import PoolObservation


class FleetState(Protocol):
    """The present state of the fleet."""

    @property
    def held(self) -> Collection[str]:
        """Pools that `pools` left out last time, because one of their nodes fell silent."""

    async def refresh(self) -> None:
        """Read the newest frames and queue counts. Raises UnavailableError."""

    async def pools(self, now: datetime) -> Mapping[str, Sequence[PoolStatus]]:
        """Return pools with their status on every node. Raises UnavailableError."""

    async def critical(self) -> CriticalAlerts:
        """Return what the open alerts say about devices. Raises UnavailableError."""

    async def devices(self) -> DeviceRegistry:
        """Return every device of every node. Raises UnavailableError."""

    def samples(self, metric: str, now: datetime) -> Readings:
        """Return the recent readings of a metric."""

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


class PastReader(Protocol):
    """The fleet's history."""

    async def read_past(self, since: datetime, until: datetime) -> FleetHistory:
        """Read a time span of the fleet. Raises UnavailableError."""

    async def read_block(
        self, since: datetime, until: datetime, slack_s: Mapping[str, float], default_slack_s: float
    ) -> JobTotals:
        """Aggregate jobs that were submitted in the span. Raises UnavailableError.

        A job is late when it waited longer than the slack of its pool, in seconds.
        """

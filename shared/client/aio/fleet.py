"""Read and control the fleet in asynchronous programs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from datetime import timedelta
from typing import Literal

from accelerator_autopilot.client.aio.base import Connected
from accelerator_autopilot.client.error_translation import call, translated
from accelerator_autopilot.client.fleet import Decision, DeviceView, Explanation
from accelerator_autopilot.client.recent_telemetry import History, read_history, start_of
from accelerator_autopilot.contracts.dataframe_conversion import Rows
from accelerator_autopilot.contracts.errors import InvalidInputError, NotFoundError
from accelerator_autopilot.contracts.frames import TelemetryFrame
from accelerator_autopilot.contracts.messages.commands import (
    AnyCommand,
    CommandOutcome,
    DecisionRecord,
    FleetPolicy,
    Recommendation,
)
from accelerator_autopilot.contracts.messages.jobs import PoolStatus
from accelerator_autopilot.contracts.messages.telemetry import NodeInventory
from accelerator_autopilot.transport.clock import utc_now


class AsyncFleetMethods(Connected):
    """Read and control the fleet. A device is given as `node/device`, by its name alone, or as its DeviceView."""

    @call
    async def devices(self) -> Rows[DeviceView]:
        """Return all devices with their newest samples."""
        return Rows(await self._autopilot.fleet.devices())

    @call
    async def device(self, device: str | DeviceView) -> DeviceView:
        """Return one device with its newest sample.

        Raises NotFoundError, and InvalidInputError for a name that exists on several nodes.
        """
        if isinstance(device, DeviceView):
            device = f"{device.node}/{device.info.device}"
        views = await self._autopilot.fleet.devices()
        found = [v for v in views if device in {v.info.device, f"{v.node}/{v.info.device}"}]
        if len(found) == 1:
            return found[0]
        if found:
            places = ", ".join(f"{v.node}/{v.info.device}" for v in found[:5])
            raise InvalidInputError("device", device, f"is on several nodes, give one of: {places}")
        known = ", ".join(f"{v.node}/{v.info.device}" for v in views[:20]) or "none"
        raise NotFoundError(f"device {device!r} is not in any node's inventory; available: {known}")

    @call
    async def history(
        self,
        device: str | DeviceView | None = None,
        *,
        metrics: Collection[str] | None = None,
        last: timedelta | float = 300.0,
    ) -> History:
        """Return recent telemetry (a timedelta or seconds) of one device or all, as a table.

        It reaches as far back as the stream does, an hour by default; older samples are in the database. Raises
        NotFoundError for an unknown device, and InvalidInputError for an unknown metric or a result that is too
        large.
        """
        since = start_of(last, utc_now())
        js = self._autopilot.js
        if device is not None:
            view = await self.device(device)
            return await read_history(js, [view.node], since, device=view.info.device, metrics=metrics)
        nodes = [inventory.node for inventory in await self._autopilot.fleet.inventories()]
        return await read_history(js, nodes, since, metrics=metrics)

    async def live(self) -> AsyncIterator[TelemetryFrame]:
        """Yield frames of all nodes as they arrive."""
        with translated("live"):
            async for frame in self._autopilot.fleet.live():
                yield frame

    @call
    async def nodes(self) -> Rows[NodeInventory]:
        """Return every node that ever reported, with its devices and the state of their sources."""
        return Rows(await self._autopilot.fleet.inventories())

    @call
    async def pools(self) -> Rows[PoolStatus]:
        """Return every pool on every node with its workers."""
        return Rows(await self._autopilot.fleet.pools())

    @call
    async def decisions(self, limit: int = 50) -> Rows[Decision]:
        """Return the newest commands with their outcomes, oldest first."""
        return Rows(await self._autopilot.fleet.decisions(limit))

    @call
    async def decision_records(self, limit: int = 50) -> Rows[DecisionRecord]:
        """Return the scheduler's newest decisions about pools, with or without a command, oldest first."""
        return Rows(await self._autopilot.fleet.decision_records(limit))

    @call
    async def explain(self, decision: str) -> Explanation:
        """Return what was observed, considered and allowed, by the id of a decision or its command.

        Raises NotFoundError.
        """
        return await self._autopilot.fleet.explain(decision)

    @call
    async def recommendations(self, limit: int = 50) -> Rows[Recommendation]:
        """Return the scheduler's newest recommendations, oldest first."""
        return Rows(await self._autopilot.fleet.recommendations(limit))

    @call
    async def approve(self, recommendation: Recommendation) -> AnyCommand:
        """Apply a recommendation. Raises InvalidInputError when it has no command."""
        return await self._autopilot.steering.approve(recommendation)

    @call
    async def cap(
        self,
        device: str | DeviceView,
        watts: float | None = None,
        *,
        clock_mhz: float | None = None,
        lease: timedelta | float = 60.0,
        reason: str = "operator",
        timeout: float = 10.0,
    ) -> CommandOutcome:
        """Cap a device's power, limit its clock, or both, until the lease ends; neither restores its default.

        Returns the agent's outcome, with what was read back from the device. Raises NotFoundError for an
        unknown device, and TimeoutError when no agent answers within `timeout` seconds.
        """
        view = await self.device(device)
        lease_s = lease.total_seconds() if isinstance(lease, timedelta) else float(lease)
        command = await self._autopilot.steering.cap_power(
            view.node, view.info.device, watts, clock_mhz=clock_mhz, lease_s=lease_s, reason=reason
        )
        return await self._outcome(command, timeout)

    @call
    async def cordon(
        self,
        device: str | DeviceView,
        *,
        reason: str = "operator",
        timeout: float = 10.0,
    ) -> CommandOutcome:
        """Stop giving a device new work. Returns and raises as `cap` does."""
        return await self._take(device, "cordon", reason, timeout)

    @call
    async def drain(
        self,
        device: str | DeviceView,
        *,
        reason: str = "operator",
        timeout: float = 10.0,
    ) -> CommandOutcome:
        """Take a device out of service once its work is done. Returns and raises as `cap` does."""
        return await self._take(device, "drain", reason, timeout)

    @call
    async def restore(
        self,
        device: str | DeviceView,
        *,
        reason: str = "operator",
        timeout: float = 10.0,
    ) -> CommandOutcome:
        """Take a cordoned or drained device back into service. Returns and raises as `cap` does."""
        return await self._take(device, "restore", reason, timeout)

    @call
    async def scale(
        self,
        pool: str,
        workers: int,
        *,
        reason: str = "operator",
        timeout: float = 10.0,
    ) -> CommandOutcome:
        """Set a pool's number of workers, on all of its nodes together. Returns and raises as `cap` does."""
        return await self._outcome(await self._autopilot.steering.scale(pool, workers, reason=reason), timeout)

    @call
    async def policy(self) -> FleetPolicy:
        """Return the policy that bounds the scheduler; change it with `model_copy(update=...)` and `set_policy`."""
        return await self._autopilot.steering.policy()

    @call
    async def set_policy(self, policy: FleetPolicy) -> None:
        """Replace the policy."""
        await self._autopilot.steering.set_policy(policy)

    @call
    async def reports(self) -> list[str]:
        """Return the weeks that have a report, the newest last."""
        return await self._autopilot.fleet.reports()

    @call
    async def report(self, week: str) -> bytes:
        """Return the HTML report of a week such as 2026-W47. Raises NotFoundError and InvalidInputError."""
        return await self._autopilot.fleet.report(week)

    async def _take(
        self, device: str | DeviceView, action: Literal["cordon", "drain", "restore"], reason: str, timeout_s: float
    ) -> CommandOutcome:
        view = await self.device(device)
        command = await self._autopilot.steering.drain(view.node, view.info.device, action, reason=reason)
        return await self._outcome(command, timeout_s)

    async def _outcome(self, command: AnyCommand, timeout_s: float) -> CommandOutcome:
        try:
            return await self._autopilot.steering.outcome(command.id, timeout_s)
        except TimeoutError:
            text = f"no outcome of command {command.id} for {command.target} within {timeout_s:g} s"
            raise TimeoutError(f"{text}: check that its agent or pool runs") from None

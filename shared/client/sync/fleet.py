"""Read and control the fleet in programs without an event loop."""
# Written by `make docs-generate` from client.aio.fleet: change that instead.

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import timedelta

from accelerator_autopilot.client.fleet import Decision, DeviceView, Explanation
from accelerator_autopilot.client.recent_telemetry import History
from accelerator_autopilot.client.sync.base import Blocking
from accelerator_autopilot.contracts.dataframe_conversion import Rows
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


class FleetMethods(Blocking):
    """Read and control the fleet. A device is given as `node/device`, by its name alone, or as its DeviceView."""

    def devices(self) -> Rows[DeviceView]:
        """Return all devices with their newest samples."""
        return self._wait(self._client.devices())

    def device(self, device: str | DeviceView) -> DeviceView:
        """Return one device with its newest sample.

        Raises NotFoundError, and InvalidInputError for a name that exists on several nodes.
        """
        return self._wait(self._client.device(device))

    def history(
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
        return self._wait(self._client.history(device, metrics=metrics, last=last))

    def live(self) -> Iterator[TelemetryFrame]:
        """Yield frames of all nodes as they arrive."""
        return self._iterate(self._client.live())

    def nodes(self) -> Rows[NodeInventory]:
        """Return every node that ever reported, with its devices and the state of their sources."""
        return self._wait(self._client.nodes())

    def pools(self) -> Rows[PoolStatus]:
        """Return every pool on every node with its workers."""
        return self._wait(self._client.pools())

    def decisions(self, limit: int = 50) -> Rows[Decision]:
        """Return the newest commands with their outcomes, oldest first."""
        return self._wait(self._client.decisions(limit))

    def decision_records(self, limit: int = 50) -> Rows[DecisionRecord]:
        """Return the scheduler's newest decisions about pools, with or without a command, oldest first."""
        return self._wait(self._client.decision_records(limit))

    def explain(self, decision: str) -> Explanation:
        """Return what was observed, considered and allowed, by the id of a decision or its command.

        Raises NotFoundError.
        """
        return self._wait(self._client.explain(decision))

    def recommendations(self, limit: int = 50) -> Rows[Recommendation]:
        """Return the scheduler's newest recommendations, oldest first."""
        return self._wait(self._client.recommendations(limit))

    def approve(self, recommendation: Recommendation) -> AnyCommand:
        """Apply a recommendation. Raises InvalidInputError when it has no command."""
        return self._wait(self._client.approve(recommendation))

    def cap(
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
        return self._wait(
            self._client.cap(
                device,
                watts,
                clock_mhz=clock_mhz,
                lease=lease,
                reason=reason,
                timeout=timeout,
            )
        )

    def cordon(
        self,
        device: str | DeviceView,
        *,
        reason: str = "operator",
        timeout: float = 10.0,
    ) -> CommandOutcome:
        """Stop giving a device new work. Returns and raises as `cap` does."""
        return self._wait(self._client.cordon(device, reason=reason, timeout=timeout))

    def drain(self, device: str | DeviceView, *, reason: str = "operator", timeout: float = 10.0) -> CommandOutcome:
        """Take a device out of service once its work is done. Returns and raises as `cap` does."""
        return self._wait(self._client.drain(device, reason=reason, timeout=timeout))

    def restore(
        self,
        device: str | DeviceView,
        *,
        reason: str = "operator",
        timeout: float = 10.0,
    ) -> CommandOutcome:
        """Take a cordoned or drained device back into service. Returns and raises as `cap` does."""
        return self._wait(self._client.restore(device, reason=reason, timeout=timeout))

    def scale(self, pool: str, workers: int, *, reason: str = "operator", timeout: float = 10.0) -> CommandOutcome:
        """Set a pool's number of workers, on all of its nodes together. Returns and raises as `cap` does."""
        return self._wait(self._client.scale(pool, workers, reason=reason, timeout=timeout))

    def policy(self) -> FleetPolicy:
        """Return the policy that bounds the scheduler; change it with `model_copy(update=...)` and `set_policy`."""
        return self._wait(self._client.policy())

    def set_policy(self, policy: FleetPolicy) -> None:
        """Replace the policy."""
        self._wait(self._client.set_policy(policy))

    def reports(self) -> list[str]:
        """Return the weeks that have a report, the newest last."""
        return self._wait(self._client.reports())

    def report(self, week: str) -> bytes:
        """Return the HTML report of a week such as 2026-W47. Raises NotFoundError and InvalidInputError."""
        return self._wait(self._client.report(week))

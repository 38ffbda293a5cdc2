"""Ports of the agent."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Protocol, TypeVar, runtime_checkable

from accelerator_autopilot.contracts.messages.telemetry import DeviceInfo, SimulationRequest
from accelerator_autopilot.telemetry.agent.domain.power_lease import CappedDevices
from accelerator_autopilot.telemetry.samples import Sample, SourceEvent

T = TypeVar("T")


class DeviceSource(Protocol):
    """A family of accelerators. Its methods may block: each source has its own thread.

    Failures of a source whose `is_driver` is False say nothing about its devices; without the attribute it is a
    driver.
    """

    name: str

    def discover(self) -> list[DeviceInfo]:
        """Return the devices that are present now."""

    def sample(self) -> dict[str, Sample]:
        """Read every device; unreadable values are left out. Raises UnavailableError when nothing can be read."""

    def poll_events(self) -> list[SourceEvent]:
        """Return events since the last call."""

    def close(self) -> None:
        """Release the driver."""


class GuardedSource(Protocol):
    """A source whose calls run one at a time with a time limit each, so that none can block the agent."""

    @property
    def name(self) -> str:
        """The source's name."""

    @property
    def source(self) -> DeviceSource:
        """The source itself, for attributes other than calls."""

    @property
    def is_driver(self) -> bool:
        """Whether its failures say something about its devices."""

    @property
    def absent(self) -> bool:
        """Whether the machine has no such source, as far as is known."""

    async def call(self, function: Callable[[], T]) -> T:
        """Run a function of the source. Raises SourceHungError, SourceBusyError and whatever the function raises."""


@runtime_checkable
class PowerActuator(Protocol):
    """Sets power caps and reads them back."""

    def set_cap_w(self, device: str, cap_w: float) -> None:
        """Request a power cap. Raises PowerControlError."""

    def applied_cap_w(self, device: str) -> float:
        """Return the cap as the device accepted it. Raises PowerControlError."""

    def enforced_cap_w(self, device: str) -> float:
        """Return the cap in force, the lowest of all limiters. Raises PowerControlError."""


class CapStore(Protocol):
    """Persists which devices were capped or locked, across crashes."""

    def load(self) -> CappedDevices:
        """Return what was stored when the last process ended."""

    def save(self, devices: Collection[str], clocks: Collection[str], defaults_w: Mapping[str, float]) -> None:
        """Replace the stored state. Raises OSError."""


@runtime_checkable
class ClockActuator(Protocol):
    """Locks clocks: finer control than a power cap."""

    def lock_clock_mhz(self, device: str, clock_mhz: float | None) -> None:
        """Limit the clock to at most this; None removes the limit. Raises PowerControlError."""


@runtime_checkable
class SimulatedDevices(Protocol):
    """Devices that a request can control directly."""

    def discover(self) -> list[DeviceInfo]:
        """Return the existing devices."""

    def set_load(self, device: str, util: float) -> None:
        """Follow the work on a device."""

    def request(self, request: SimulationRequest) -> str:
        """Handle a request; returns what is wrong with it, or an empty string."""

"""Ports of the agent."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Protocol, TypeVar, runtime_checkable

from accelerator_autopilot.contracts.messages.telemetry import DeviceInfo, SimulationRequest
from accelerator_autopilot.telemetry.agent.domain.power_lease import CappedDevices
from accelerator_autopilot.telemetry.samples import Sample, SourceEvent

T = TypeVar("T")


class DeviceSource(Protocol):
    """A family of accelerators. Its methods may block: they run in a thread of their own.

    A source whose `is_driver` is False says nothing about its devices by failing or hanging; without the
    attribute it is a driver.
    """

    name: str

    def discover(self) -> list[DeviceInfo]:
        """Find the devices that are there now."""

    def sample(self) -> dict[str, Sample]:
        """Read every device; what cannot be read is left out. Raises UnavailableError when nothing can be told."""

    def poll_events(self) -> list[SourceEvent]:
        """Events since the last call."""

    def close(self) -> None:
        """Let go of the driver."""


class GuardedSource(Protocol):
    """A source whose calls are made one at a time with a time limit each, so that none can freeze the agent."""

    @property
    def name(self) -> str:
        """The source's name."""

    @property
    def source(self) -> DeviceSource:
        """The source itself, for what it has besides calls."""

    @property
    def is_driver(self) -> bool:
        """Whether its failing says something about its devices."""

    @property
    def absent(self) -> bool:
        """Whether the machine has no such source, as far as is known now."""

    async def call(self, function: Callable[[], T]) -> T:
        """Run a function of the source. Raises SourceHungError, SourceBusyError and whatever the function raises."""


@runtime_checkable
class PowerActuator(Protocol):
    """Sets power caps and reads them back."""

    def set_cap_w(self, device: str, cap_w: float) -> None:
        """Ask the device for a cap. Raises PowerControlError."""

    def applied_cap_w(self, device: str) -> float:
        """The cap as the device took it. Raises PowerControlError."""

    def enforced_cap_w(self, device: str) -> float:
        """The cap in force, the least of all limiters. Raises PowerControlError."""


class CapStore(Protocol):
    """Which devices were capped or locked, kept across crashes."""

    def load(self) -> CappedDevices:
        """What was kept when the last process ended."""

    def save(self, devices: Collection[str], clocks: Collection[str], defaults_w: Mapping[str, float]) -> None:
        """Keep this in its place. Raises OSError."""


@runtime_checkable
class ClockActuator(Protocol):
    """Locks clocks: the finer knob."""

    def lock_clock_mhz(self, device: str, clock_mhz: float | None) -> None:
        """Hold the processor's clock at or below this; None gives it back. Raises PowerControlError."""


@runtime_checkable
class SimulatedDevices(Protocol):
    """Devices that do as they are told."""

    def discover(self) -> list[DeviceInfo]:
        """Those that there are."""

    def set_load(self, device: str, util: float) -> None:
        """Follow the work on a device."""

    def request(self, request: SimulationRequest) -> str:
        """Carry out a request; returns what is wrong with it, or nothing."""

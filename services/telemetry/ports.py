"""Ports of the agent and the recorder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from accelerator_autopilot.contracts.messages.telemetry import DeviceInfo, SimulationRequest

if TYPE_CHECKING:
    from accelerator_autopilot.contracts.frames import TelemetryFrame

Sample = dict[str, float]


@dataclass(frozen=True)
class SourceEvent:
    """Something a source noticed about a device.

    `occurrence` names what happened where its teller can name it, so that telling it twice is telling it
    once; `cause` says why a device appeared.
    """

    device: str
    kind: str
    code: int | None = None
    message: str = ""
    origin: str = ""
    occurrence: str = ""
    cause: str = ""


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


@runtime_checkable
class PowerActuator(Protocol):
    """Sets power caps and reads them back."""

    def set_cap_w(self, device: str, cap_w: float) -> None:
        """Ask the device for a cap. Raises PowerControlError."""

    def applied_cap_w(self, device: str) -> float:
        """The cap as the device took it. Raises PowerControlError."""

    def enforced_cap_w(self, device: str) -> float:
        """The cap in force, the least of all limiters. Raises PowerControlError."""


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


class FrameStore(Protocol):
    """Where frames become rows."""

    async def write(self, frames: Sequence[TelemetryFrame]) -> int:
        """Write each sample once and return the number of new rows."""

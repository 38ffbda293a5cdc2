"""Set caps and clocks through drivers, and read them back; a value that differs counts as a failure."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from accelerator_autopilot.contracts.errors import AutopilotError
from accelerator_autopilot.contracts.messages.telemetry import DeviceInfo
from accelerator_autopilot.telemetry.agent.ports import ClockActuator, GuardedSource, PowerActuator
from accelerator_autopilot.telemetry.errors import PowerControlError

T = TypeVar("T")
Find = Callable[[str], tuple[DeviceInfo, GuardedSource] | None]
Told = tuple[float, float]

TOLERANCE_W, TOLERANCE = 1.0, 0.01


@dataclass
class PowerDriver:
    """The drivers of one node's devices. `defaults_w` includes devices that may be gone when theirs is needed."""

    find: Find
    defaults_w: dict[str, float] = field(default_factory=dict)

    def note(self, info: DeviceInfo) -> None:
        """Record a device's default."""
        if info.power_default_w is not None:
            self.defaults_w[info.device] = info.power_default_w

    async def apply_default(self, device: str, *, may_be_locked: bool) -> Told:
        """Restore a device's default. Raises AutopilotError."""
        found = self.find(device)
        default_w = (found[0].power_default_w if found else None) or self.defaults_w.get(device)
        if default_w is None:
            raise PowerControlError(f"device {device!r} does not exist, or does not report its default power cap")
        return await self.apply(device, default_w, None, may_be_locked=may_be_locked)

    async def apply(self, device: str, cap_w: float, clock_mhz: float | None, *, may_be_locked: bool) -> Told:
        """Set cap and clock; returns the cap as applied and as enforced. Raises AutopilotError."""

        def work(actuator: PowerActuator) -> Told:
            problem: Exception | None = None
            if clock_mhz is not None and not isinstance(actuator, ClockActuator):
                raise PowerControlError(f"device {device!r} has no clock control")
            if isinstance(actuator, ClockActuator) and (clock_mhz is not None or may_be_locked):
                try:
                    actuator.lock_clock_mhz(device, clock_mhz)
                except Exception as error:
                    if clock_mhz is not None:
                        raise
                    problem = error  # the cap is restored all the same
            actuator.set_cap_w(device, cap_w)
            if problem is not None:
                raise problem
            return actuator.applied_cap_w(device), actuator.enforced_cap_w(device)

        applied, enforced = await self._call(device, work)
        if not close_to(applied, cap_w) or not math.isfinite(enforced):
            raise PowerControlError(f"{device} accepted {cap_w:g} W but reports {applied:g} W, enforced {enforced:g} W")
        return applied, enforced

    async def applied_w(self, device: str) -> float:
        """Return the cap that a device reports. Raises AutopilotError."""
        return await self._call(device, partial(_applied, device))

    async def _call(self, device: str, work: Callable[[PowerActuator], T]) -> T:
        found = self.find(device)
        if found is None:
            raise PowerControlError(f"device {device!r} no longer exists")
        actuator = found[1].source
        if not isinstance(actuator, PowerActuator):
            raise PowerControlError(f"source {found[1].name} cannot control power")
        try:
            return await found[1].call(lambda: work(actuator))
        except AutopilotError:
            raise
        except Exception as error:
            raise PowerControlError(f"{device}: the driver failed: {type(error).__name__}: {error}") from error


def close_to(reported_w: float, wanted_w: float) -> bool:
    """Whether a driver reports what was requested; drivers round, and NaN never matches."""
    return abs(reported_w - wanted_w) <= max(TOLERANCE_W, TOLERANCE * wanted_w)


def _applied(device: str, actuator: PowerActuator) -> float:
    return actuator.applied_cap_w(device)

"""A driver, a guard and a cap file that do what real ones do at their worst."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from accelerator_autopilot.telemetry.agent.adapters.power_cap_file import PowerCapFile
from accelerator_autopilot.telemetry.agent.adapters.simulated_source import SimulatedSource
from accelerator_autopilot.telemetry.agent.adapters.threaded_source import ThreadedSource
from accelerator_autopilot.telemetry.errors import PowerControlError, SourceBusyError, SourceHungError

T = TypeVar("T")
DEVICES = ("sim-n1-0", "sim-n1-1", "sim-n1-2")


class Driver(SimulatedSource):
    """Simulated GPUs behind a driver with a fault at a time."""

    def __init__(self) -> None:
        super().__init__("n1", len(DEVICES))
        self.fault = ""
        self.defaults = {info.device: info.power_default_w for info in self.discover()}

    def set_cap_w(self, device: str, cap_w: float) -> None:
        if self.fault == "raises before":
            raise KeyError(device)
        if self.fault == "lost":
            raise PowerControlError("gone")
        if self.fault != "ignores":
            super().set_cap_w(device, cap_w)
        if self.fault == "raises after":
            raise OSError(5, "Input/output error")

    def applied_cap_w(self, device: str) -> float:
        return {"lies": 111.0, "nan": math.nan}.get(self.fault, super().applied_cap_w(device))

    def enforced_cap_w(self, device: str) -> float:
        return math.inf if self.fault == "nan" else super().enforced_cap_w(device)

    def lock_clock_mhz(self, device: str, clock_mhz: float | None) -> None:
        if self.fault == "no clock":
            raise PowerControlError("no clock")
        super().lock_clock_mhz(device, clock_mhz)

    def state(self, device: str) -> tuple[float, float | None]:
        return self._gpus[device].cap_w, self._gpus[device].clock_mhz

    def forget(self) -> None:
        """The driver is loaded anew: all that was set is gone."""
        for device, gpu in self._gpus.items():
            gpu.cap_w, gpu.clock_mhz = self.defaults[device] or 0.0, None


class Guard(ThreadedSource):
    """What callers see of a guarded source, without threads and waiting."""

    def __init__(self, driver: Driver) -> None:
        self._source, self.name, self.driver = driver, driver.name, driver
        self.stuck: Callable[[], Any] | None = None
        self._pauses = itertools.cycle((0, 1, 0, 3, 2))

    async def call(self, function: Callable[[], T]) -> T:
        for _ in range(next(self._pauses)):
            await asyncio.sleep(0)
        if self.stuck is not None:
            raise SourceHungError("a driver call has not returned")
        if self.driver.fault == "never made":
            raise SourceBusyError("no turn")
        if self.driver.fault == "late":
            self.stuck = function
            raise SourceHungError("no answer")
        return function()

    def return_late(self) -> None:
        """The call that was given up is done at last."""
        stuck, self.stuck = self.stuck, None
        try:
            if stuck is not None:
                stuck()
        except Exception:
            return  # nobody waits for it any more


class File(PowerCapFile):
    """A cap file on a disk that may be full."""

    full = False

    def save(
        self, devices: Collection[str], clocks: Collection[str] = (), defaults_w: Mapping[str, float] | None = None
    ) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        super().save(devices, clocks, defaults_w)

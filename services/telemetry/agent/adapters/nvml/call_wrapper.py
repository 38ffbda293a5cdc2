"""Wrap every NVML call: unsupported readings are asked once, failures are counted, device loss is distinguished."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pynvml

log = logging.getLogger(__name__)

T = TypeVar("T")
GONE = {pynvml.NVML_ERROR_GPU_IS_LOST}
# Errors of one reading: an id that an older driver does not know, or a missing fan. If the reading has worked before,
# it exists.
DOUBTFUL = {pynvml.NVML_ERROR_INVALID_ARGUMENT, pynvml.NVML_ERROR_NOT_FOUND}
UNSUPPORTED = {
    pynvml.NVML_ERROR_NOT_SUPPORTED,
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
    pynvml.NVML_ERROR_NO_PERMISSION,
    pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
}
RELOADED = {
    pynvml.NVML_ERROR_UNINITIALIZED,
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
}


class DeviceGoneError(Exception):
    """The device no longer responds; nothing in this tick's sample can be trusted."""


class DriverReloadedError(Exception):
    """The library lost its driver and must be reinitialised before anything is read."""


@dataclass
class NvmlCaller:
    """Remembers what each device does not support, and counts other errors."""

    unsupported: dict[str, set[str]] = field(default_factory=dict)
    errors: Counter[tuple[str, int]] = field(default_factory=Counter)
    _answered: dict[str, set[str]] = field(default_factory=dict)

    def supports(self, device: str, name: str) -> bool:
        """Whether a reading is still worth asking for."""
        return name not in self.unsupported.get(device, ())

    def refuse(self, device: str, name: str) -> None:
        """Mark a reading as unsupported by this device."""
        self.unsupported.setdefault(device, set()).add(name)
        log.info("not supported", extra={"device": device, "reading": name})

    def forget(self, device: str) -> None:
        """Forget what a device does not support: it came back, perhaps with another driver."""
        self.unsupported.pop(device, None)
        self._answered.pop(device, None)

    def answered(self, device: str, name: str) -> None:
        """Record that a device has this reading."""
        self._answered.setdefault(device, set()).add(name)

    def read(self, device: str, name: str, call: Callable[[], T]) -> T | None:
        """Return the call's result, or None. Raises DeviceGoneError and DriverReloadedError."""
        if not self.supports(device, name):
            return None
        try:
            value = call()
        except pynvml.NVMLError as error:
            self.judge(device, name, error.value)
            return None
        except Exception as error:  # noqa: BLE001  a driver's odd answer costs one reading
            log.debug("invalid answer", extra={"device": device, "reading": name, "error": str(error)})
            self.errors[name, -1] += 1
            return None
        self.answered(device, name)
        return value

    def judge(self, device: str, name: str, code: int) -> None:
        """Handle a failed reading. Raises DeviceGoneError and DriverReloadedError."""
        if code in RELOADED:
            raise DriverReloadedError
        if code in GONE:
            raise DeviceGoneError
        if code in UNSUPPORTED or (code in DOUBTFUL and name not in self._answered.get(device, ())):
            self.refuse(device, name)
        else:
            self.errors[name, code] += 1


def text(value: Any) -> str:
    """Decode a string; NVML returns bytes or str, depending on its version."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)

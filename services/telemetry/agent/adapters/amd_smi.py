"""AMD GPUs through amdsmi where AMD's package is installed; otherwise sysfs is used.

Calls and keys: AMD SMI Python library reference, 6.x. Power in W, energy in µJ, memory in bytes.
"""

from __future__ import annotations

import importlib
import logging
import math
import time
from collections.abc import Callable
from typing import Any

from accelerator_autopilot.contracts.errors import UnavailableError
from accelerator_autopilot.contracts.messages.base import MOST_NAME_BYTES
from accelerator_autopilot.contracts.messages.telemetry import DeviceInfo
from accelerator_autopilot.telemetry.errors import PowerControlError
from accelerator_autopilot.telemetry.samples import Sample, SourceEvent

log = logging.getLogger(__name__)

_MAX_VALUE = 2.0**100  # values too large for any counter


class AmdSmiSource:
    """All AMD GPUs by UUID."""

    name = "amdsmi"

    def __init__(self, library: Any = None) -> None:
        try:
            self._smi = library or importlib.import_module("amdsmi")
            self._smi.amdsmi_init()
        except Exception as error:  # the package raises its own types, which exist only where it is installed
            raise UnavailableError(f"amdsmi cannot be used: {error}") from error
        self._handles: dict[str, Any] = {}
        self._names: dict[str, str] = {}

    def discover(self) -> list[DeviceInfo]:
        """Enumerate the GPUs again. Raises UnavailableError while the library is unavailable."""
        found: dict[str, Any] = {}
        devices = []
        for index, handle in enumerate(self._enumerate()):
            address = str(self._ask(self._smi.amdsmi_get_gpu_device_bdf, handle) or "")
            uuid = self._name(handle, index, address)
            found[uuid] = handle
            asic = self._table(self._smi.amdsmi_get_gpu_asic_info, handle)
            vram = self._table(self._smi.amdsmi_get_gpu_vram_usage, handle)
            caps = self._table(self._smi.amdsmi_get_power_cap_info, handle)
            total = _number(vram.get("vram_total"))
            devices.append(
                DeviceInfo(
                    device=uuid,
                    index=index,
                    model=str(asic.get("market_name", "AMD GPU")),
                    vendor="amd",
                    source="amdsmi",
                    memory_bytes=int(total * 2**20) if total is not None and 0 <= total < 2**43 else None,
                    power_min_w=_watts(caps.get("min_power_cap")),
                    power_max_w=_watts(caps.get("max_power_cap")),
                    power_default_w=_watts(caps.get("default_power_cap")),
                    pci_bus_id=address or None,
                )
            )
        self._handles = found
        return devices

    def _enumerate(self) -> list[Any]:
        try:
            return list(self._smi.amdsmi_get_processor_handles())
        except Exception as error:
            raise UnavailableError(f"amdsmi cannot list devices: {error}") from error

    def _name(self, handle: Any, index: int, address: str) -> str:
        """Return a card's UUID; one that does not report it now keeps the name last used at this address."""
        uuid = self._ask(self._smi.amdsmi_get_gpu_device_uuid, handle)
        if isinstance(uuid, str) and 0 < len(uuid.encode(errors="replace")) <= MOST_NAME_BYTES and "\0" not in uuid:
            self._names[address] = uuid
        return self._names.get(address) or f"amd-gpu-{index}"

    def sample(self) -> dict[str, Sample]:
        """Read every GPU; unreported values are left out.

        Raises UnavailableError when all are silent because the library is.
        """
        samples = {}
        for uuid, handle in self._handles.items():
            started = time.monotonic()
            sample = self._read(handle)
            if sample:
                samples[uuid] = sample | {"read_time_s": time.monotonic() - started}
        if not samples:
            self._enumerate()
        return samples

    def _read(self, handle: Any) -> Sample:
        smi = self._smi
        activity = self._table(smi.amdsmi_get_gpu_activity, handle)
        power = self._table(smi.amdsmi_get_power_info, handle)
        vram = self._table(smi.amdsmi_get_gpu_vram_usage, handle)
        energy = self._table(smi.amdsmi_get_energy_count, handle)
        ecc = self._table(smi.amdsmi_get_gpu_total_ecc_count, handle)
        heat, place = smi.AmdSmiTemperatureMetric.CURRENT, smi.AmdSmiTemperatureType
        joules = _number(energy.get("energy_accumulator", energy.get("power")))
        resolution = _number(energy.get("counter_resolution"))
        used, total = _number(vram.get("vram_used")), _number(vram.get("vram_total"))
        found = {
            "gpu_util_pct": _number(activity.get("gfx_activity")),
            "mem_util_pct": _number(activity.get("umc_activity")),
            "power_w": _first(power, "current_socket_power", "average_socket_power"),
            "power_cap_w": _watts(power.get("power_limit")),
            "memory_used_bytes": used * 2**20 if used is not None else None,
            "memory_total_bytes": total * 2**20 if total is not None else None,
            "energy_j": joules * resolution / 1e6 if joules is not None and resolution is not None else None,
            "temp_c": _number(self._ask(smi.amdsmi_get_temp_metric, handle, place.HOTSPOT, heat)),
            "temp_mem_c": _number(self._ask(smi.amdsmi_get_temp_metric, handle, place.VRAM, heat)),
            "ecc_sbe": _number(ecc.get("correctable_count")),
            "ecc_dbe": _number(ecc.get("uncorrectable_count")),
        }
        return {name: value for name, value in found.items() if value is not None and math.isfinite(value)}

    def _ask(self, read: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return read(*arguments)
        except Exception as error:  # noqa: BLE001  see above
            log.debug("amdsmi reading failed", extra={"error": str(error)})
            return None

    def _table(self, read: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
        """Return an answer that has fields; anything else counts as empty."""
        answer = self._ask(read, *arguments)
        return answer if isinstance(answer, dict) else {}

    def poll_events(self) -> list[SourceEvent]:
        """Return no events; this library's events are not supported yet."""
        return []

    def set_cap_w(self, device: str, cap_w: float) -> None:
        """Set a power cap. Raises PowerControlError."""
        try:
            self._smi.amdsmi_set_power_cap(self._handles[device], 0, round(cap_w * 1e6))
        except Exception as error:
            raise PowerControlError(f"{device} did not accept a power cap of {cap_w:g} W: {error}") from error

    def applied_cap_w(self, device: str) -> float:
        """Read the cap back. Raises PowerControlError."""
        caps = self._table(self._smi.amdsmi_get_power_cap_info, self._handles[device])
        cap = _watts(caps.get("power_cap"))
        if cap is None:
            raise PowerControlError(f"{device} does not report its power cap")
        return cap

    def enforced_cap_w(self, device: str) -> float:
        """Return the same: the library exposes one limiter. Raises PowerControlError."""
        return self.applied_cap_w(device)

    def close(self) -> None:
        """Shut the library down."""
        self._smi.amdsmi_shut_down()


def _number(value: Any) -> float | None:
    """Return a number; the library writes "N/A" where there is none."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < _MAX_VALUE:
        return None
    return float(value)


def _first(values: dict[str, Any], *names: str) -> float | None:
    return next((n for n in (_number(values.get(name)) for name in names) if n is not None), None)


def _watts(value: Any) -> float | None:
    """Limits were in W before release 6.4 and are in µW since."""
    number = _number(value)
    return None if number is None else number / 1e6 if number > 1e5 else number

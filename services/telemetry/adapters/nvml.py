"""NVIDIA GPUs through NVML: every call goes through one gate that knows what each device supports."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pynvml

from services.telemetry.errors import PowerControlError
from services.telemetry.ports import Sample, SourceEvent
from shared.errors import UnavailableError
from shared.messages.telemetry import DeviceInfo

log = logging.getLogger(__name__)

Read = Callable[[Any], float]
_GONE = {pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_INVALID_ARGUMENT, pynvml.NVML_ERROR_NOT_FOUND}
_UNSUPPORTED = {
    pynvml.NVML_ERROR_NOT_SUPPORTED,
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
    pynvml.NVML_ERROR_NO_PERMISSION,
    pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
}
_EVENTS = {
    pynvml.nvmlEventTypeXidCriticalError: "xid",
    pynvml.nvmlEventTypeDoubleBitEccError: "ecc",
}


def _call(name: str) -> Read:
    return lambda h: float(getattr(pynvml, name)(h))


def _field(field_id: int) -> Read:
    def read(handle: Any) -> float:
        value = pynvml.nvmlDeviceGetFieldValues(handle, [field_id])[0]
        if value.nvmlReturn != pynvml.NVML_SUCCESS:
            raise pynvml.NVMLError(value.nvmlReturn)
        return float(value.value.uiVal)

    return read


def _ecc(kind: int) -> Read:
    return lambda h: float(pynvml.nvmlDeviceGetTotalEccErrors(h, kind, pynvml.NVML_VOLATILE_ECC))


def _remapped(position: int) -> Read:
    return lambda h: float(pynvml.nvmlDeviceGetRemappedRows(h)[position])


READS: dict[str, Read] = {
    "gpu_util_pct": lambda h: pynvml.nvmlDeviceGetUtilizationRates(h).gpu,
    "mem_util_pct": lambda h: pynvml.nvmlDeviceGetUtilizationRates(h).memory,
    "encoder_util_pct": lambda h: pynvml.nvmlDeviceGetEncoderUtilization(h)[0],
    "decoder_util_pct": lambda h: pynvml.nvmlDeviceGetDecoderUtilization(h)[0],
    "memory_used_bytes": lambda h: pynvml.nvmlDeviceGetMemoryInfo(h).used,
    "memory_total_bytes": lambda h: pynvml.nvmlDeviceGetMemoryInfo(h).total,
    "power_w": lambda h: pynvml.nvmlDeviceGetPowerUsage(h) / 1e3,
    "energy_j": lambda h: pynvml.nvmlDeviceGetTotalEnergyConsumption(h) / 1e3,
    "power_cap_w": lambda h: pynvml.nvmlDeviceGetPowerManagementLimit(h) / 1e3,
    "power_enforced_w": lambda h: pynvml.nvmlDeviceGetEnforcedPowerLimit(h) / 1e3,
    "temp_c": lambda h: pynvml.nvmlDeviceGetTemperature(h, pynvml.NVML_TEMPERATURE_GPU),
    "temp_mem_c": _field(pynvml.NVML_FI_DEV_MEMORY_TEMP),
    "temp_slowdown_c": lambda h: pynvml.nvmlDeviceGetTemperatureThreshold(
        h, pynvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN
    ),
    "fan_pct": _call("nvmlDeviceGetFanSpeed"),
    "clock_sm_mhz": lambda h: pynvml.nvmlDeviceGetClockInfo(h, pynvml.NVML_CLOCK_SM),
    "clock_mem_mhz": lambda h: pynvml.nvmlDeviceGetClockInfo(h, pynvml.NVML_CLOCK_MEM),
    "clock_event_reasons": _call("nvmlDeviceGetCurrentClocksEventReasons"),
    "pcie_replays": _call("nvmlDeviceGetPcieReplayCounter"),
    "ecc_sbe": _ecc(pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED),
    "ecc_dbe": _ecc(pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED),
    "remapped_rows": _remapped(1),
    "row_remap_pending": _remapped(2),
    "row_remap_failure": _remapped(3),
    "processes": lambda h: float(len(pynvml.nvmlDeviceGetComputeRunningProcesses(h))),
}


class NvmlSource:
    """All GPUs of this node by UUID. What a device does not support is asked once and never again."""

    name = "nvml"

    def __init__(self) -> None:
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            raise UnavailableError(f"NVML cannot be used: {error}") from error
        self._handles: dict[str, Any] = {}
        self._unsupported: dict[str, set[str]] = {}
        self._event_set: Any = None

    def discover(self) -> list[DeviceInfo]:
        """Enumerate anew: handles of a lost GPU must not be used again."""
        self._handles = {}
        devices = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            try:
                handle = pynvml.nvmlDeviceGetHandleByIndex(index)
                uuid = _text(pynvml.nvmlDeviceGetUUID(handle))
            except pynvml.NVMLError as error:
                log.warning("gpu not readable", extra={"index": index, "error": str(error)})
                continue
            self._handles[uuid] = handle
            devices.append(self._describe(uuid, index, handle))
        self._register_events()
        return devices

    def _describe(self, uuid: str, index: int, handle: Any) -> DeviceInfo:
        def ask(read: Callable[[], Any]) -> Any:
            try:
                return read()
            except pynvml.NVMLError:
                return None

        limits = ask(lambda: pynvml.nvmlDeviceGetPowerManagementLimitConstraints(handle))
        default = ask(lambda: pynvml.nvmlDeviceGetPowerManagementDefaultLimit(handle))
        memory = ask(lambda: pynvml.nvmlDeviceGetMemoryInfo(handle))
        pci = ask(lambda: pynvml.nvmlDeviceGetPciInfo(handle))
        return DeviceInfo(
            device=uuid,
            index=index,
            vendor="nvidia",
            source="nvml",
            model=_text(ask(lambda: pynvml.nvmlDeviceGetName(handle)) or "NVIDIA GPU"),
            memory_bytes=memory.total if memory else None,
            power_min_w=limits[0] / 1e3 if limits else None,
            power_max_w=limits[1] / 1e3 if limits else None,
            power_default_w=default / 1e3 if default else None,
            driver=_text(ask(pynvml.nvmlSystemGetDriverVersion) or ""),
            pci_bus_id=_text(pci.busId) if pci else None,
        )

    def sample(self) -> dict[str, Sample]:
        """Read what each device supports; a device that is gone is left out."""
        samples = {}
        for uuid, handle in self._handles.items():
            sample = self._read_device(uuid, handle)
            if sample:
                samples[uuid] = sample
        return samples

    def _read_device(self, uuid: str, handle: Any) -> Sample:
        unsupported = self._unsupported.setdefault(uuid, set())
        sample: Sample = {}
        for metric, read in READS.items():
            if metric in unsupported:
                continue
            try:
                sample[metric] = float(read(handle))
            except pynvml.NVMLError as error:
                if error.value in _UNSUPPORTED:
                    unsupported.add(metric)
                    log.info("metric not supported", extra={"device": uuid, "metric": metric})
                elif error.value in _GONE:
                    return {}
        return sample

    def _register_events(self) -> None:
        try:
            if self._event_set is not None:
                pynvml.nvmlEventSetFree(self._event_set)
            self._event_set = pynvml.nvmlEventSetCreate()
            for handle in self._handles.values():
                supported = pynvml.nvmlDeviceGetSupportedEventTypes(handle)
                mask = sum(event for event in _EVENTS if supported & event)
                if mask:
                    pynvml.nvmlDeviceRegisterEvents(handle, mask, self._event_set)
        except pynvml.NVMLError as error:
            self._event_set = None
            log.warning("no events from NVML", extra={"error": str(error)})

    def poll_events(self) -> list[SourceEvent]:
        """Every event that waits, each occurrence once."""
        events: list[SourceEvent] = []
        while self._event_set is not None and len(events) < 1000:
            try:
                data = pynvml.nvmlEventSetWait_v2(self._event_set, 1)
                uuid = _text(pynvml.nvmlDeviceGetUUID(data.device))
            except pynvml.NVMLError as error:
                if error.value != pynvml.NVML_ERROR_TIMEOUT:
                    log.warning("waiting for NVML events failed", extra={"error": str(error)})
                break
            kind = _EVENTS.get(data.eventType, "xid")
            events.append(SourceEvent(uuid, kind, int(data.eventData), f"NVML event {kind} {data.eventData}"))
        return events

    def set_cap_w(self, device: str, cap_w: float) -> None:
        """Set a cap on the device of this UUID. Raises PowerControlError."""
        try:
            pynvml.nvmlDeviceSetPowerManagementLimit(pynvml.nvmlDeviceGetHandleByUUID(device), round(cap_w * 1e3))
        except pynvml.NVMLError as error:
            raise PowerControlError(f"{device} did not take {cap_w:g} W: {error} (capping needs root)") from error

    def enforced_cap_w(self, device: str) -> float:
        """Read the cap in force back. Raises PowerControlError."""
        try:
            handle = pynvml.nvmlDeviceGetHandleByUUID(device)
            return float(pynvml.nvmlDeviceGetEnforcedPowerLimit(handle)) / 1e3
        except pynvml.NVMLError as error:
            raise PowerControlError(f"{device} does not tell its cap: {error}") from error

    def close(self) -> None:
        """Let go of the driver."""
        pynvml.nvmlShutdown()


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)

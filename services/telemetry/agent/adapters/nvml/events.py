"""Events that the driver reports: XIDs, memory errors, clocks, recovery. Each occurrence once."""

from __future__ import annotations

import ctypes
import logging
from typing import Any

import pynvml

from accelerator_autopilot.telemetry.agent.adapters.nvml.call_wrapper import text
from accelerator_autopilot.telemetry.samples import SourceEvent

log = logging.getLogger(__name__)

MAX_AT_ONCE = 1000
# Event types by their bits in the NVML API reference; older packages lack names for the newest.
EVENTS: dict[int, str] = {
    0x1: "ecc_sbe",
    0x2: "ecc",
    0x8: "xid",
    0x10: "clock_change",
    0x100: "mig_change",
    0x200: "ecc_sbe_storm",
    0x400: "row_remap",
    0x800: "row_remap_failed",
    0x1000: "poison",
    0x2000: "poison_fatal",
    0x4000: "gpu_unavailable",
    0x8000: "recovery_action",
}
# Clocks change many times a second on a busy device; throttling is detected from samples instead.
_REGISTERED = {bit for bit, kind in EVENTS.items() if kind != "clock_change"}


class EventReader:
    """One event set for all devices of a node."""

    def __init__(self, handles: dict[str, Any]) -> None:
        self._set: Any = pynvml.nvmlEventSetCreate()
        self._by_handle = {_address(handle): device for device, handle in handles.items()}
        self.failed = False
        for device, handle in handles.items():
            try:
                supported = int(pynvml.nvmlDeviceGetSupportedEventTypes(handle))
                mask = sum(bit for bit in _REGISTERED if supported & bit)
                if mask:
                    pynvml.nvmlDeviceRegisterEvents(handle, mask, self._set)
            except pynvml.NVMLError as error:
                log.info("no events from device", extra={"device": device, "error": str(error)})

    def poll(self) -> list[SourceEvent]:
        """Return all pending events."""
        events: list[SourceEvent] = []
        while len(events) < MAX_AT_ONCE:
            try:
                data = pynvml.nvmlEventSetWait_v2(self._set, 1)
            except pynvml.NVMLError as error:
                if error.value != pynvml.NVML_ERROR_TIMEOUT:
                    # One lost device can invalidate the set for all, so the owner creates a new
                    # one.
                    self.failed = True
                    log.warning("waiting for NVML events failed", extra={"error": str(error)})
                break
            device = self._device(data.device)
            if device is None:
                log.error("NVML event of an unknown device", extra={"code": int(data.eventData)})
                continue
            kind = EVENTS.get(int(data.eventType), "unknown")
            code = int(data.eventData)
            events.append(SourceEvent(device, kind, code, f"NVML event {kind} {code}", origin="nvml"))
            if kind == "recovery_action" and code == 0:
                events.append(SourceEvent(device, "reset", message="recovery action cleared", origin="nvml"))
        return events

    def _device(self, handle: Any) -> str | None:
        """Return the device of an event; a lost device no longer reports its UUID, but its handle stays the same."""
        try:
            return text(pynvml.nvmlDeviceGetUUID(handle))
        except pynvml.NVMLError:
            return self._by_handle.get(_address(handle))

    def close(self) -> None:
        """Free the event set."""
        pynvml.nvmlEventSetFree(self._set)


def _address(handle: Any) -> Any:
    """Return what identifies a device's handle: NVML returns pointers, each time in a new object."""
    target = getattr(handle, "contents", None)
    return handle if target is None else ctypes.addressof(target)

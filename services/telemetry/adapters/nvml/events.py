"""Events that the driver itself tells: XIDs, memory errors, clocks, recovery. Each occurrence once."""

from __future__ import annotations

import logging
from typing import Any

import pynvml

from services.telemetry.adapters.nvml.gate import text
from services.telemetry.ports import SourceEvent

log = logging.getLogger(__name__)

MOST_AT_ONCE = 1000
# Event types by their bits in the NVML API reference; the newest have no name in older packages.
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
# Clocks change many times a second on a busy device: what throttles them is told from the samples.
_REGISTERED = {bit for bit, kind in EVENTS.items() if kind != "clock_change"}


class EventReader:
    """One event set for all devices of a node."""

    def __init__(self, handles: dict[str, Any]) -> None:
        self._set: Any = pynvml.nvmlEventSetCreate()
        for device, handle in handles.items():
            try:
                supported = int(pynvml.nvmlDeviceGetSupportedEventTypes(handle))
                mask = sum(bit for bit in _REGISTERED if supported & bit)
                if mask:
                    pynvml.nvmlDeviceRegisterEvents(handle, mask, self._set)
            except pynvml.NVMLError as error:
                log.info("no events from device", extra={"device": device, "error": str(error)})

    def poll(self) -> list[SourceEvent]:
        """Every event that waits."""
        events: list[SourceEvent] = []
        while len(events) < MOST_AT_ONCE:
            try:
                data = pynvml.nvmlEventSetWait_v2(self._set, 1)
                device = text(pynvml.nvmlDeviceGetUUID(data.device))
            except pynvml.NVMLError as error:
                if error.value != pynvml.NVML_ERROR_TIMEOUT:
                    log.warning("waiting for NVML events failed", extra={"error": str(error)})
                break
            kind = EVENTS.get(int(data.eventType), "unknown")
            code = int(data.eventData)
            events.append(SourceEvent(device, kind, code, f"NVML event {kind} {code}", origin="nvml"))
        return events

    def close(self) -> None:
        """Free the set."""
        pynvml.nvmlEventSetFree(self._set)

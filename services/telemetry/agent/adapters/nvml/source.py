"""All GPUs of this node by UUID, and their MIG instances."""

from __future__ import annotations

import logging
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pynvml

from accelerator_autopilot.contracts.errors import UnavailableError
from accelerator_autopilot.contracts.messages.telemetry import DeviceInfo
from accelerator_autopilot.telemetry.agent.adapters.device_processes import describe_process
from accelerator_autopilot.telemetry.agent.adapters.nvml import nvlinks as nvlink
from accelerator_autopilot.telemetry.agent.adapters.nvml.call_wrapper import (
    RELOADED,
    DeviceGoneError,
    DriverReloadedError,
    NvmlCaller,
    text,
)
from accelerator_autopilot.telemetry.agent.adapters.nvml.device_description import describe_gpu, describe_instance
from accelerator_autopilot.telemetry.agent.adapters.nvml.events import EventReader
from accelerator_autopilot.telemetry.agent.adapters.nvml.gpm import GpmReader
from accelerator_autopilot.telemetry.agent.adapters.nvml.readings import CALLS, FALLBACKS, FIELDS, number
from accelerator_autopilot.telemetry.agent.adapters.nvml.unified_memory import is_unified, system_memory
from accelerator_autopilot.telemetry.agent.adapters.runtime_suspend import ASLEEP, is_suspended_at
from accelerator_autopilot.telemetry.agent.domain.energy import EnergyCheck, EnergyIntegral
from accelerator_autopilot.telemetry.agent.domain.sampling_periods import SamplingSchedule
from accelerator_autopilot.telemetry.errors import PowerControlError
from accelerator_autopilot.telemetry.samples import Sample, SourceEvent

log = logging.getLogger(__name__)

# A tick that comes slightly early must not wait for the next one.
COSTLY_PERIOD_S = 0.95
_REASONS = {
    pynvml.NVML_ERROR_NO_PERMISSION: " (needs root)",
    pynvml.NVML_ERROR_NOT_SUPPORTED: " (this device, like many laptop GPUs, does not allow it)",
    pynvml.NVML_ERROR_INVALID_ARGUMENT: " (outside of the device's range)",
}


@dataclass
class _Device:
    """A handle, and the state kept between two readings of it."""

    info: DeviceInfo
    handle: Any
    due: SamplingSchedule = field(default_factory=SamplingSchedule)
    links: list[int] = field(default_factory=list)
    gpm: GpmReader | None = None
    integral: EnergyIntegral = field(default_factory=EnergyIntegral)
    check: EnergyCheck = field(default_factory=EnergyCheck)
    power_seen_us: int = 0
    costly_at_s: float | None = None
    energy_j: float | None = None
    board: int = -1
    action: float = 0.0


class NvmlSource:
    """NVML as a source. Everything runs in one thread: the library's state is process-wide."""

    name = "nvml"

    def __init__(self) -> None:
        self._gate = NvmlCaller()
        self._devices: dict[str, _Device] = {}
        self._events: EventReader | None = None
        self._resets: list[SourceEvent] = []
        self._starts = 0
        self._start()

    def _start(self) -> None:
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            raise UnavailableError(f"NVML cannot be used: {error}") from error
        self._starts += 1

    @property
    def errors(self) -> Counter[tuple[str, int]]:
        """Failed readings by name and NVML code."""
        return self._gate.errors

    def discover(self) -> list[DeviceInfo]:
        """Enumerate the GPUs again, since handles of a lost GPU or an unloaded driver must not be reused.

        Raises UnavailableError while the driver is not loaded.
        """
        before: dict[str, _Device] = self._devices
        found: dict[str, _Device] = {}
        for index in range(self._count()):
            try:
                found |= self._look_at(index, before)
            except DriverReloadedError as error:
                raise UnavailableError("the driver was reloaded during device discovery") from error
            except Exception as error:  # noqa: BLE001  one bad card must not blind the node
                log.warning("GPU not readable", extra={"index": index, "error": str(error) or type(error).__name__})
                # It is sampled all the same: an error may pass, and a loss is detected there.
                found |= {u: d for u, d in before.items() if d.board == index and u not in found}
        self._devices = found
        if self._events is None or before.keys() != found.keys():
            self._listen()
        return [self._complete(device) for device in found.values()]

    def _look_at(self, index: int, before: dict[str, _Device]) -> dict[str, _Device]:
        """Return the GPU at an index and its instances. Raises any error of the driver."""
        asleep = {u: d for u, d in before.items() if d.board == index and is_suspended_at(d.info.pci_bus_id)}
        if asleep:
            return asleep
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        uuid = text(pynvml.nvmlDeviceGetUUID(handle))
        info = describe_gpu(uuid, index, handle)
        found = {uuid: self._adopt(before.get(uuid), info, handle)}
        if info.mig_mode:
            for child, child_handle in self._instances(info, handle):
                found[child.device] = self._adopt(before.get(child.device), child, child_handle)
        for device in found.values():
            device.board = index
        return found

    def _count(self) -> int:
        try:
            return int(pynvml.nvmlDeviceGetCount())
        except pynvml.NVMLError as error:
            if error.value in RELOADED:
                self._events = None
                self._start()
            raise UnavailableError(f"NVML cannot list devices: {error}") from error

    def _adopt(self, before: _Device | None, info: DeviceInfo, handle: Any) -> _Device:
        if before is None or before.info.driver != info.driver:
            self._gate.forget(info.device)
            device = _Device(info, handle)
            device.links = (
                []
                if info.parent
                else (self._gate.read(info.device, "nvlink", lambda: nvlink.link_numbers(handle)) or [])
            )
            device.gpm = self._gpm(info, handle)
            return device
        before.info, before.handle = info, handle
        return before

    def _instances(self, parent: DeviceInfo, handle: Any) -> list[tuple[DeviceInfo, Any]]:
        found = []
        for number_ in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
            try:
                child = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number_)
                uuid = text(pynvml.nvmlDeviceGetUUID(child))
            except pynvml.NVMLError:
                continue
            found.append((describe_instance(uuid, child, parent), child))
        return found

    def _gpm(self, info: DeviceInfo, handle: Any) -> GpmReader | None:
        try:
            if info.parent:
                whole = pynvml.nvmlDeviceGetHandleByUUID(info.parent)
                if not pynvml.nvmlGpmQueryDeviceSupport(whole).isSupportedDevice:
                    return None
                instance = pynvml.nvmlDeviceGetGpuInstanceId(handle)
                return GpmReader(lambda sample: pynvml.nvmlGpmMigSampleGet(whole, instance, sample))
            if not pynvml.nvmlGpmQueryDeviceSupport(handle).isSupportedDevice:
                return None
            return GpmReader(lambda sample: pynvml.nvmlGpmSampleGet(handle, sample))
        except pynvml.NVMLError:
            return None

    def _listen(self) -> None:
        try:
            if self._events is not None:
                self._events.close()
            self._events = EventReader({u: d.handle for u, d in self._devices.items() if not d.info.parent})
        except pynvml.NVMLError as error:
            self._events = None
            log.warning("no events from NVML", extra={"error": str(error)})

    def _complete(self, device: _Device) -> DeviceInfo:
        uuid, handle = device.info.device, device.handle
        if is_suspended_at(device.info.pci_bus_id):
            return device.info
        try:
            found = (
                self._gate.read(uuid, "nvlinks", lambda: nvlink.describe(handle, device.links))
                if device.links
                else None
            )
            running = self._gate.read(uuid, "processes", lambda: pynvml.nvmlDeviceGetComputeRunningProcesses(handle))
            processes = [describe_process(int(p.pid), p.usedGpuMemory) for p in running or []]
        except Exception as error:  # noqa: BLE001  a device that is lost meanwhile is told by its samples
            log.info("GPU reports fewer readings", extra={"device": uuid, "error": str(error) or type(error).__name__})
            return device.info
        return device.info.model_copy(update={"links": found or [], "processes": processes})

    def sample(self) -> dict[str, Sample]:
        """Read what each device supports and what is due; a device that is gone is left out."""
        samples = {}
        for uuid, device in self._devices.items():
            if is_suspended_at(device.info.pci_bus_id):
                samples[uuid] = dict(ASLEEP)
                continue
            started, failed = time.monotonic(), sum(self._gate.errors.values())
            try:
                sample = self._read(uuid, device, started)
            except DeviceGoneError:
                continue
            except DriverReloadedError:
                log.warning("driver was reloaded; reinitialising NVML")
                self._restart()
                return {}
            except Exception:
                log.exception("GPU not sampled", extra={"device": uuid})
                continue
            if not sample:
                # When every reading is refused at once, an older driver is not the cause: ask for
                # everything again.
                self._gate.forget(uuid)
            else:
                self._note_recovery(uuid, device, sample)
                sample["read_time_s"] = time.monotonic() - started
                sample["read_errors"] = float(sum(self._gate.errors.values()) - failed)
                samples[uuid] = sample
        return samples

    def _note_recovery(self, uuid: str, device: _Device, sample: Sample) -> None:
        """Detect a reset: the driver asked for one, and no longer does."""
        action = sample.get("recovery_action", device.action)
        if device.action and not action:
            self._resets.append(SourceEvent(uuid, "reset", message="recovery action cleared", origin="nvml"))
        device.action = action

    def _restart(self) -> None:
        self._events, self._devices = None, {}
        try:
            self._start()
            self.discover()
        except (UnavailableError, pynvml.NVMLError) as error:
            log.warning("driver not back yet", extra={"error": str(error)})

    def _read(self, uuid: str, device: _Device, now_s: float) -> Sample:
        sample: Sample = {}
        handle = device.handle
        costly = device.costly_at_s is None or now_s - device.costly_at_s >= COSTLY_PERIOD_S
        if costly:
            device.costly_at_s = now_s
        for rate in device.due.rates(now_s):
            for name, call in CALLS[rate].items():
                values = self._gate.read(uuid, name, lambda call=call: call(handle))  # type: ignore[misc]
                if values is None and name in FALLBACKS:
                    values = self._gate.read(uuid, f"{name}_v1", lambda name=name: FALLBACKS[name](handle))  # type: ignore[misc]
                sample |= values or {}
            sample |= self._read_fields(uuid, handle, rate, costly=costly)
            if rate == "medium" and device.links:
                sample |= self._gate.read(uuid, "nvlink_totals", lambda: nvlink.read_totals(handle, device.links)) or {}
            if rate == "slow" and device.links:
                links = self._gate.read(uuid, "nvlink_states", lambda: nvlink.describe(handle, device.links))
                if links is not None:
                    sample["nvlink_active"] = float(sum(link.active for link in links))
        if "memory_total_bytes" not in sample and device.info.memory_bytes and is_unified(device.info.model):
            sample |= system_memory()
        if device.gpm is not None and costly:
            gpm = device.gpm
            sample |= self._gate.read(uuid, "gpm", lambda: gpm.read(now_s)) or {}
        self._integrate(uuid, device, sample, now_s)
        return sample

    def _read_fields(self, uuid: str, handle: Any, rate: str, *, costly: bool) -> Sample:
        wanted = [f for f in FIELDS[rate] if self._gate.supports(uuid, f.metric) and (costly or not f.costly)]
        if not wanted:
            return {}
        ids = [(f.field_id, f.scope) for f in wanted]
        answers = self._gate.read(uuid, f"fields_{rate}", lambda: pynvml.nvmlDeviceGetFieldValues(handle, ids))
        sample: Sample = {}
        for wanted_field, answer in zip(wanted, answers or (), strict=False):
            if answer.nvmlReturn == pynvml.NVML_SUCCESS:
                self._gate.answered(uuid, wanted_field.metric)
                sample[wanted_field.metric] = number(answer.valueType, answer.value) * wanted_field.scale
            else:
                self._gate.judge(uuid, wanted_field.metric, answer.nvmlReturn)
        return sample

    def _integrate(self, uuid: str, device: _Device, sample: Sample, now_s: float) -> None:
        """Integrate power at the sensor's own rate into energy; the counter, where there is one, takes precedence."""
        handle, since = device.handle, device.power_seen_us
        answer = self._gate.read(
            uuid, "power_samples", lambda: pynvml.nvmlDeviceGetSamples(handle, pynvml.NVML_TOTAL_POWER_SAMPLES, since)
        )
        if answer is not None:
            value_type, readings = answer
            device.integral.add((r.timeStamp / 1e6, number(value_type, r.sampleValue) / 1e3) for r in readings)
            device.power_seen_us = max([since, *(int(r.timeStamp) for r in readings)])
        elif "power_w" in sample:
            device.integral.add([(now_s, sample.get("power_instant_w", sample["power_w"]))])
        if "energy_j" not in sample:
            if "power_w" in sample and not self._gate.supports(uuid, "energy_j"):
                sample["energy_j"] = device.integral.energy_j
            elif device.energy_j is not None:
                # Rollups take a minute's energy from its last sample, whichever that is.
                sample["energy_j"] = device.energy_j
            return
        device.energy_j = sample["energy_j"]
        ratio = device.check.compare(now_s, device.integral.energy_j, sample["energy_j"])
        if ratio is not None and not 0.9 < ratio < 1.1:
            log.warning("energy counter and power disagree", extra={"device": uuid, "integral_over_counter": ratio})

    def poll_events(self) -> list[SourceEvent]:
        """Return all pending events, each occurrence once."""
        resets, self._resets = self._resets, []
        if self._events is None:
            return resets
        events = self._events.poll()
        if self._events.failed:
            self._listen()
        return resets + events

    def set_cap_w(self, device: str, cap_w: float) -> None:
        """Set a power cap on the device with this UUID. Raises PowerControlError."""
        try:
            pynvml.nvmlDeviceSetPowerManagementLimit(self._same(device), round(cap_w * 1e3))
        except pynvml.NVMLError as error:
            raise PowerControlError(
                f"{device} did not accept a power cap of {cap_w:g} W: {error}{_why(error)}"
            ) from error

    def enforced_cap_w(self, device: str) -> float:
        """Return the cap in force. Raises PowerControlError."""
        try:
            return float(pynvml.nvmlDeviceGetEnforcedPowerLimit(self._same(device))) / 1e3
        except pynvml.NVMLError as error:
            raise PowerControlError(f"{device} does not report its power cap: {error}") from error

    def applied_cap_w(self, device: str) -> float:
        """Return the cap as the driver accepted it. Raises PowerControlError."""
        try:
            return float(pynvml.nvmlDeviceGetPowerManagementLimit(self._same(device))) / 1e3
        except pynvml.NVMLError as error:
            raise PowerControlError(f"{device} does not report its power cap: {error}") from error

    def lock_clock_mhz(self, device: str, clock_mhz: float | None) -> None:
        """Limit the SM clock to at most this; None removes the limit. Raises PowerControlError."""
        try:
            handle = self._same(device)
            if clock_mhz is None:
                pynvml.nvmlDeviceResetGpuLockedClocks(handle)
            else:
                lowest = min(pynvml.nvmlDeviceGetSupportedGraphicsClocks(handle, _memory_clock(handle)))
                pynvml.nvmlDeviceSetGpuLockedClocks(handle, int(lowest), round(clock_mhz))
        except pynvml.NVMLError as error:
            raise PowerControlError(
                f"{device} did not accept a clock of {clock_mhz} MHz: {error}{_why(error)}"
            ) from error

    def _same(self, device: str) -> Any:
        """Return the device with this UUID, whatever its index is now. Raises PowerControlError and NVMLError."""
        handle = pynvml.nvmlDeviceGetHandleByUUID(device)
        if text(pynvml.nvmlDeviceGetUUID(handle)) != device:
            raise PowerControlError(f"the index of {device} now belongs to another device")
        return handle

    def close(self) -> None:
        """Release the driver, however often it was initialised: until then it cannot be replaced."""
        with suppress(pynvml.NVMLError):
            if self._events is not None:
                self._events.close()
        for device in self._devices.values():
            with suppress(pynvml.NVMLError):
                if device.gpm is not None:
                    device.gpm.close()
        self._events, self._devices = None, {}
        for _ in range(self._starts):
            with suppress(pynvml.NVMLError):
                pynvml.nvmlShutdown()
        self._starts = 0


def _why(error: pynvml.NVMLError) -> str:
    """Return advice for the operator about a refusal, where the cause is known."""
    return _REASONS.get(error.value, "")


def _memory_clock(handle: Any) -> int:
    return int(pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_MEM))

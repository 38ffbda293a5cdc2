"""Describe a GPU: identity, limits, modes. Read at device discovery."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pynvml

from accelerator_autopilot.contracts.messages.telemetry import DeviceInfo
from accelerator_autopilot.telemetry.agent.adapters.boot_identity import driver_epoch
from accelerator_autopilot.telemetry.agent.adapters.nvml.call_wrapper import text
from accelerator_autopilot.telemetry.agent.adapters.nvml.unified_memory import is_unified, system_memory

_COMPUTE_MODES = {0: "default", 1: "exclusive_thread", 2: "prohibited", 3: "exclusive_process"}


def ask(read: Callable[[], Any]) -> Any:
    """Return the answer, or None where there is none."""
    try:
        return read()
    except pynvml.NVMLError:
        return None


def describe_gpu(uuid: str, index: int, handle: Any) -> DeviceInfo:
    """Describe a whole GPU."""
    limits = ask(lambda: pynvml.nvmlDeviceGetPowerManagementLimitConstraints(handle))
    default = ask(lambda: pynvml.nvmlDeviceGetPowerManagementDefaultLimit(handle))
    memory = ask(lambda: pynvml.nvmlDeviceGetMemoryInfo(handle))
    model = text(ask(lambda: pynvml.nvmlDeviceGetName(handle)) or "NVIDIA GPU")
    shared = int(system_memory()["memory_total_bytes"]) if is_unified(model) else None
    pci = ask(lambda: pynvml.nvmlDeviceGetPciInfo(handle))
    ecc = ask(lambda: pynvml.nvmlDeviceGetEccMode(handle))
    persistence = ask(lambda: pynvml.nvmlDeviceGetPersistenceMode(handle))
    mode = ask(lambda: pynvml.nvmlDeviceGetComputeMode(handle))
    return DeviceInfo(
        device=uuid,
        index=index,
        vendor="nvidia",
        source="nvml",
        model=model,
        memory_bytes=memory.total if memory else shared,
        power_min_w=limits[0] / 1e3 if limits else None,
        power_max_w=limits[1] / 1e3 if limits else None,
        power_default_w=default / 1e3 if default else None,
        driver=text(ask(pynvml.nvmlSystemGetDriverVersion) or ""),
        driver_epoch=driver_epoch("nvidia"),
        pci_bus_id=text(pci.busId) if pci else None,
        serial=_text(lambda: pynvml.nvmlDeviceGetSerial(handle)),
        vbios=_text(lambda: pynvml.nvmlDeviceGetVbiosVersion(handle)),
        temp_shutdown_c=_threshold(handle, pynvml.NVML_TEMPERATURE_THRESHOLD_SHUTDOWN),
        temp_mem_max_c=_threshold(handle, pynvml.NVML_TEMPERATURE_THRESHOLD_MEM_MAX),
        clock_max_sm_mhz=ask(lambda: pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_SM)),
        clock_max_mem_mhz=ask(lambda: pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_MEM)),
        pcie_gen_max=ask(lambda: pynvml.nvmlDeviceGetMaxPcieLinkGeneration(handle)),
        pcie_width_max=ask(lambda: pynvml.nvmlDeviceGetMaxPcieLinkWidth(handle)),
        persistence_mode=None if persistence is None else bool(persistence),
        compute_mode=_COMPUTE_MODES.get(mode),
        ecc_mode=None if ecc is None else bool(ecc[0]),
        mig_mode=mig_enabled(handle),
    )


def describe_instance(uuid: str, handle: Any, parent: DeviceInfo) -> DeviceInfo:
    """Describe a MIG instance, numbered as its GPU. Power belongs to the board, so only the parent can be capped."""
    model = text(ask(lambda: pynvml.nvmlDeviceGetName(handle)) or f"{parent.model} MIG")
    memory = ask(lambda: pynvml.nvmlDeviceGetMemoryInfo(handle))
    return DeviceInfo(
        device=uuid,
        index=parent.index,
        vendor="nvidia",
        source="nvml",
        model=model,
        memory_bytes=memory.total if memory else None,
        driver=parent.driver,
        driver_epoch=parent.driver_epoch,
        pci_bus_id=parent.pci_bus_id,
        parent=parent.device,
        mig_mode=True,
        mig_instance=ask(lambda: int(pynvml.nvmlDeviceGetGpuInstanceId(handle))),
        mig_profile=model.rpartition("MIG ")[2].strip() or None,
    )


def mig_enabled(handle: Any) -> bool | None:
    """Whether MIG is on; None where the device has no MIG."""
    mode = ask(lambda: pynvml.nvmlDeviceGetMigMode(handle))
    return None if mode is None else bool(mode[0])


def _text(read: Callable[[], Any]) -> str | None:
    value = ask(read)
    return None if value is None else text(value)


def _threshold(handle: Any, kind: int) -> float | None:
    return ask(lambda: float(pynvml.nvmlDeviceGetTemperatureThreshold(handle, kind)))  # type: ignore[no-any-return]

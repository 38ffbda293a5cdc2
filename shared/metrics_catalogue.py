"""The one table of metrics. Database columns, panels, Prometheus names and documents derive from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Metric:
    """A metric: our name (with its unit), how NVML reads it, and the DCGM field of the same meaning.

    `noise_floor` is the smallest spread that the streaming statistic assumes, in the metric's
    unit; None means that the metric follows the load and is not watched on its own.
    """

    name: str
    unit: str
    kind: Literal["gauge", "counter"]
    help: str
    nvml: str = ""
    dcgm: str = ""
    noise_floor: float | None = None


METRICS: tuple[Metric, ...] = (
    Metric(
        "gpu_util_pct",
        "%",
        "gauge",
        "time with a kernel running",
        "nvmlDeviceGetUtilizationRates.gpu",
        "DCGM_FI_DEV_GPU_UTIL",
    ),
    Metric(
        "mem_util_pct",
        "%",
        "gauge",
        "memory controller busy",
        "nvmlDeviceGetUtilizationRates.memory",
        "DCGM_FI_DEV_MEM_COPY_UTIL",
    ),
    Metric(
        "encoder_util_pct",
        "%",
        "gauge",
        "video encoder busy",
        "nvmlDeviceGetEncoderUtilization",
        "DCGM_FI_DEV_ENC_UTIL",
    ),
    Metric(
        "decoder_util_pct",
        "%",
        "gauge",
        "video decoder busy",
        "nvmlDeviceGetDecoderUtilization",
        "DCGM_FI_DEV_DEC_UTIL",
    ),
    Metric(
        "memory_used_bytes", "B", "gauge", "device memory in use", "nvmlDeviceGetMemoryInfo.used", "DCGM_FI_DEV_FB_USED"
    ),
    Metric(
        "memory_total_bytes", "B", "gauge", "device memory", "nvmlDeviceGetMemoryInfo.total", "DCGM_FI_DEV_FB_TOTAL"
    ),
    Metric("power_w", "W", "gauge", "power drawn", "nvmlDeviceGetPowerUsage", "DCGM_FI_DEV_POWER_USAGE"),
    Metric(
        "energy_j",
        "J",
        "counter",
        "energy since the driver was loaded",
        "nvmlDeviceGetTotalEnergyConsumption",
        "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION",
    ),
    Metric(
        "power_cap_w",
        "W",
        "gauge",
        "power cap asked for",
        "nvmlDeviceGetPowerManagementLimit",
        "DCGM_FI_DEV_POWER_MGMT_LIMIT",
    ),
    Metric(
        "power_enforced_w",
        "W",
        "gauge",
        "power cap in force",
        "nvmlDeviceGetEnforcedPowerLimit",
        "DCGM_FI_DEV_ENFORCED_POWER_LIMIT",
    ),
    Metric(
        "temp_c", "°C", "gauge", "temperature of the processor", "nvmlDeviceGetTemperature", "DCGM_FI_DEV_GPU_TEMP", 5.0
    ),
    Metric(
        "temp_mem_c",
        "°C",
        "gauge",
        "temperature of the memory",
        "NVML_FI_DEV_MEMORY_TEMP",
        "DCGM_FI_DEV_MEMORY_TEMP",
        5.0,
    ),
    Metric(
        "temp_slowdown_c",
        "°C",
        "gauge",
        "temperature at which clocks are lowered",
        "nvmlDeviceGetTemperatureThreshold.slowdown",
    ),
    Metric("fan_pct", "%", "gauge", "fan speed", "nvmlDeviceGetFanSpeed", "DCGM_FI_DEV_FAN_SPEED", 8.0),
    Metric(
        "clock_sm_mhz",
        "MHz",
        "gauge",
        "streaming multiprocessor clock",
        "nvmlDeviceGetClockInfo.sm",
        "DCGM_FI_DEV_SM_CLOCK",
    ),
    Metric("clock_mem_mhz", "MHz", "gauge", "memory clock", "nvmlDeviceGetClockInfo.mem", "DCGM_FI_DEV_MEM_CLOCK"),
    Metric(
        "clock_event_reasons",
        "bitmask",
        "gauge",
        "why clocks are lowered",
        "nvmlDeviceGetCurrentClocksEventReasons",
        "DCGM_FI_DEV_CLOCKS_EVENT_REASONS",
    ),
    Metric(
        "pcie_replays",
        "1",
        "counter",
        "PCIe replays",
        "nvmlDeviceGetPcieReplayCounter",
        "DCGM_FI_DEV_PCIE_REPLAY_COUNTER",
    ),
    Metric(
        "ecc_sbe",
        "1",
        "counter",
        "corrected memory errors since the driver was loaded",
        "nvmlDeviceGetTotalEccErrors.corrected",
        "DCGM_FI_DEV_ECC_SBE_VOL_TOTAL",
    ),
    Metric(
        "ecc_dbe",
        "1",
        "counter",
        "uncorrected memory errors since the driver was loaded",
        "nvmlDeviceGetTotalEccErrors.uncorrected",
        "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL",
    ),
    Metric(
        "remapped_rows",
        "1",
        "counter",
        "memory rows remapped for uncorrectable errors",
        "nvmlDeviceGetRemappedRows.uncorrectable",
        "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS",
    ),
    Metric(
        "row_remap_pending", "flag", "gauge", "a row remapping waits for a reset", "nvmlDeviceGetRemappedRows.pending"
    ),
    Metric(
        "row_remap_failure",
        "flag",
        "gauge",
        "a row remapping failed",
        "nvmlDeviceGetRemappedRows.failure",
        "DCGM_FI_DEV_ROW_REMAP_FAILURE",
    ),
    Metric("processes", "1", "gauge", "processes on the device", "nvmlDeviceGetComputeRunningProcesses"),
)

BY_NAME: dict[str, Metric] = {metric.name: metric for metric in METRICS}
NAMES: tuple[str, ...] = tuple(BY_NAME)

CLOCK_EVENT_REASONS: dict[int, str] = {
    0x1: "idle",
    0x2: "app_clocks",
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal",
    0x40: "hw_thermal",
    0x80: "hw_power_brake",
    0x100: "display",
}


def clock_event_names(mask: int) -> list[str]:
    """Names of the bits of nvmlDeviceGetCurrentClocksEventReasons."""
    return [name for bit, name in CLOCK_EVENT_REASONS.items() if mask & bit]

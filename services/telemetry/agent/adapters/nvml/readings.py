"""Which NVML call or field provides which metric. Names and numbers are those of the NVML API reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pynvml

Values = dict[str, float]
ReadCall = Callable[[Any], Values]
SCOPE_GPU, SCOPE_MODULE, SCOPE_MEMORY = 0, 1, 2


@dataclass(frozen=True)
class Field:
    """A field of nvmlDeviceGetFieldValues: metric = value x scale. A costly one is read at most once a second."""

    metric: str
    field_id: int
    scale: float = 1.0
    scope: int = 0
    costly: bool = False


def _one(metric: str, call: Callable[[Any], Any], scale: float = 1.0) -> ReadCall:
    return lambda handle: {metric: float(call(handle)) * scale}


def _named(metric: str, function: str, scale: float = 1.0) -> ReadCall:
    return lambda handle: {metric: float(getattr(pynvml, function)(handle)) * scale}


def _clock(metric: str, clock: int) -> ReadCall:
    return _one(metric, lambda h: pynvml.nvmlDeviceGetClockInfo(h, clock))


def _utilization(handle: Any) -> Values:
    rates = pynvml.nvmlDeviceGetUtilizationRates(handle)
    return {"gpu_util_pct": float(rates.gpu), "mem_util_pct": float(rates.memory)}


def _memory(handle: Any) -> Values:
    info = pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
    return {
        "memory_used_bytes": float(info.used),
        "memory_total_bytes": float(info.total),
        "memory_free_bytes": float(info.free),
        "memory_reserved_bytes": float(info.reserved),
    }


def _memory_v1(handle: Any) -> Values:
    info = pynvml.nvmlDeviceGetMemoryInfo(handle)
    return {
        "memory_used_bytes": float(info.used),
        "memory_total_bytes": float(info.total),
        "memory_free_bytes": float(info.free),
    }


def _ecc(metric: str, kind: int, counter: int) -> ReadCall:
    return _one(metric, lambda h: pynvml.nvmlDeviceGetTotalEccErrors(h, kind, counter))


def _remapped_rows(handle: Any) -> Values:
    corrected, uncorrected, pending, failure = pynvml.nvmlDeviceGetRemappedRows(handle)
    return {
        "remapped_rows_corrected": float(corrected),
        "remapped_rows": float(uncorrected),
        "row_remap_pending": float(pending),
        "row_remap_failure": float(failure),
    }


CALLS: dict[str, dict[str, ReadCall]] = {
    "fast": {
        "utilization": _utilization,
        "memory": _memory,
        "power": _named("power_w", "nvmlDeviceGetPowerUsage", 1e-3),
        "temperature": _one("temp_c", lambda h: pynvml.nvmlDeviceGetTemperature(h, pynvml.NVML_TEMPERATURE_GPU)),
        "clock_sm": _clock("clock_sm_mhz", pynvml.NVML_CLOCK_SM),
        "clock_mem": _clock("clock_mem_mhz", pynvml.NVML_CLOCK_MEM),
        "clock_graphics": _clock("clock_graphics_mhz", pynvml.NVML_CLOCK_GRAPHICS),
        "clock_video": _clock("clock_video_mhz", pynvml.NVML_CLOCK_VIDEO),
        "clock_events": _named("clock_event_reasons", "nvmlDeviceGetCurrentClocksEventReasons"),
    },
    "medium": {
        "encoder": _one("encoder_util_pct", lambda h: pynvml.nvmlDeviceGetEncoderUtilization(h)[0]),
        "decoder": _one("decoder_util_pct", lambda h: pynvml.nvmlDeviceGetDecoderUtilization(h)[0]),
        "power_cap": _named("power_cap_w", "nvmlDeviceGetPowerManagementLimit", 1e-3),
        "power_enforced": _named("power_enforced_w", "nvmlDeviceGetEnforcedPowerLimit", 1e-3),
        "temp_margin": _named("temp_margin_c", "nvmlDeviceGetMarginTemperature"),
        "fan": _one("fan_pct", lambda h: pynvml.nvmlDeviceGetFanSpeed_v2(h, 0)),
        "fan_rpm": _named("fan_rpm", "nvmlDeviceGetFanSpeedRPM"),
        "pstate": _named("pstate", "nvmlDeviceGetPerformanceState"),
        "ecc_sbe": _ecc("ecc_sbe", pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED, pynvml.NVML_VOLATILE_ECC),
        "ecc_dbe": _ecc("ecc_dbe", pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC),
        "ecc_sbe_total": _ecc("ecc_sbe_total", pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED, pynvml.NVML_AGGREGATE_ECC),
        "ecc_dbe_total": _ecc("ecc_dbe_total", pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_AGGREGATE_ECC),
        "processes": _one("processes", lambda h: len(pynvml.nvmlDeviceGetComputeRunningProcesses(h))),
    },
    "slow": {
        "remapped_rows": _remapped_rows,
        "bar1": _one("bar1_used_bytes", lambda h: pynvml.nvmlDeviceGetBAR1MemoryInfo(h).bar1Used),
        "pcie_gen": _named("pcie_gen", "nvmlDeviceGetCurrPcieLinkGeneration"),
        "pcie_width": _named("pcie_width", "nvmlDeviceGetCurrPcieLinkWidth"),
    },
    "static": {
        "slowdown": _one(
            "temp_slowdown_c",
            lambda h: pynvml.nvmlDeviceGetTemperatureThreshold(h, pynvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN),
        ),
    },
}

# Fallbacks for older drivers or MIG instances that do not support the first choice.
FALLBACKS: dict[str, ReadCall] = {"memory": _memory_v1}

FIELDS: dict[str, tuple[Field, ...]] = {
    "fast": (
        # 3 ms of processor time on an H200 with driver 580, where most other readings take 10 us.
        Field("energy_j", pynvml.NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION, 1e-3, costly=True),
        Field("temp_mem_c", pynvml.NVML_FI_DEV_MEMORY_TEMP),
        Field("power_instant_w", pynvml.NVML_FI_DEV_POWER_INSTANT, 1e-3, SCOPE_GPU),
        Field("power_module_w", pynvml.NVML_FI_DEV_POWER_AVERAGE, 1e-3, SCOPE_MODULE),
        Field("power_memory_w", pynvml.NVML_FI_DEV_POWER_AVERAGE, 1e-3, SCOPE_MEMORY),
    ),
    "medium": (
        Field("pcie_replays", pynvml.NVML_FI_DEV_PCIE_REPLAY_COUNTER),
        Field("pcie_replay_rollovers", pynvml.NVML_FI_DEV_PCIE_REPLAY_ROLLOVER_COUNTER),
        Field("throttle_power_s", pynvml.NVML_FI_DEV_PERF_POLICY_POWER, 1e-9),
        Field("throttle_thermal_s", pynvml.NVML_FI_DEV_PERF_POLICY_THERMAL, 1e-9),
        Field("throttle_sync_boost_s", pynvml.NVML_FI_DEV_PERF_POLICY_SYNC_BOOST, 1e-9),
        Field("throttle_board_s", pynvml.NVML_FI_DEV_PERF_POLICY_BOARD_LIMIT, 1e-9),
        Field("throttle_low_util_s", pynvml.NVML_FI_DEV_PERF_POLICY_LOW_UTILIZATION, 1e-9),
        Field("throttle_reliability_s", pynvml.NVML_FI_DEV_PERF_POLICY_RELIABILITY, 1e-9),
        Field("throttle_sw_thermal_s", pynvml.NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN, 1e-9),
        Field("throttle_hw_thermal_s", pynvml.NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN, 1e-9),
        Field("throttle_power_brake_s", pynvml.NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN, 1e-9),
        Field("recovery_action", pynvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION),
        Field("pcie_tx_bytes", pynvml.NVML_FI_DEV_PCIE_COUNT_TX_BYTES),
        Field("pcie_rx_bytes", pynvml.NVML_FI_DEV_PCIE_COUNT_RX_BYTES),
    ),
    "slow": (
        Field("retired_pages_sbe", pynvml.NVML_FI_DEV_RETIRED_SBE),
        Field("retired_pages_dbe", pynvml.NVML_FI_DEV_RETIRED_DBE),
        Field("retired_pages_pending", pynvml.NVML_FI_DEV_RETIRED_PENDING),
        Field("pcie_correctable_errors", pynvml.NVML_FI_DEV_PCIE_COUNT_CORRECTABLE_ERRORS),
        Field("pcie_naks_received", pynvml.NVML_FI_DEV_PCIE_COUNT_NAKS_RECEIVED),
        Field("pcie_receiver_errors", pynvml.NVML_FI_DEV_PCIE_COUNT_RECEIVER_ERROR),
        Field("pcie_bad_tlp", pynvml.NVML_FI_DEV_PCIE_COUNT_BAD_TLP),
        Field("pcie_naks_sent", pynvml.NVML_FI_DEV_PCIE_COUNT_NAKS_SENT),
        Field("pcie_bad_dllp", pynvml.NVML_FI_DEV_PCIE_COUNT_BAD_DLLP),
        Field("pcie_non_fatal_errors", pynvml.NVML_FI_DEV_PCIE_COUNT_NON_FATAL_ERROR),
        Field("pcie_fatal_errors", pynvml.NVML_FI_DEV_PCIE_COUNT_FATAL_ERROR),
        Field("pcie_unsupported_requests", pynvml.NVML_FI_DEV_PCIE_COUNT_UNSUPPORTED_REQ),
        Field("pcie_lcrc_errors", pynvml.NVML_FI_DEV_PCIE_COUNT_LCRC_ERROR),
        Field("pcie_lane_errors", pynvml.NVML_FI_DEV_PCIE_COUNT_LANE_ERROR),
    ),
    "static": (),
}

_MEMBERS = {
    pynvml.NVML_VALUE_TYPE_DOUBLE: "dVal",
    pynvml.NVML_VALUE_TYPE_UNSIGNED_INT: "uiVal",
    pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG: "ulVal",
    pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG: "ullVal",
    pynvml.NVML_VALUE_TYPE_SIGNED_LONG_LONG: "sllVal",
    pynvml.NVML_VALUE_TYPE_SIGNED_INT: "siVal",
}


def number(value_type: int, value: Any) -> float:
    """Return the member of NVML's union that holds the value."""
    return float(getattr(value, _MEMBERS.get(value_type, "uiVal")))

"""Metric names of third-party exporters, and how each encodes a missing value. Pure.

dcgm-exporter and its 1.x: default-counters.csv and dcgm_structs.h; TPUs: Google Kubernetes Engine, "TPU system
metrics"; utkuozdemir/nvidia_gpu_exporter: METRICS.md; mindprince/nvidia_gpu_prometheus_exporter: README; AMD's
device-metrics-exporter: metricslist.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from accelerator_autopilot.contracts.metric_catalogue import METRICS

MIB = 2.0**20
XID, XID_COUNT = "xid", "xid_count"


class Line(NamedTuple):
    """One reading of a page."""

    name: str
    labels: dict[str, str]
    value: float


class Meaning(NamedTuple):
    """Our metric = the exporter's value x scale; `dialect` is the exporter that uses the name."""

    metric: str
    scale: float
    dialect: str


def _all(dialect: str, names: Mapping[str, tuple[str, float] | str]) -> dict[str, Meaning]:
    pairs = {name: (to, 1.0) if isinstance(to, str) else to for name, to in names.items()}
    return {name: Meaning(metric, scale, dialect) for name, (metric, scale) in pairs.items()}


_DCGM = _all("dcgm", {
    **{m.dcgm: (m.name, 1 / m.dcgm_scale) for m in METRICS if m.dcgm},
    "DCGM_FI_DEV_CLOCK_THROTTLE_REASONS": "clock_event_reasons", "DCGM_FI_DEV_XID_ERRORS": XID,
    "DCGM_EXP_XID_ERRORS_COUNT": XID_COUNT, "DCGM_FI_DEV_POWER_USAGE_INSTANT": "power_instant_w",
    "DCGM_FI_DEV_SLOWDOWN_TEMP": "temp_slowdown_c", "DCGM_FI_DEV_BAR1_USED": ("bar1_used_bytes", MIB),
})  # fmt: skip
_OLD_DCGM = _all("dcgm", {
    "dcgm_sm_clock": "clock_sm_mhz", "dcgm_memory_clock": "clock_mem_mhz", "dcgm_video_clock": "clock_video_mhz",
    "dcgm_gpu_temp": "temp_c", "dcgm_memory_temp": "temp_mem_c", "dcgm_power_usage": "power_w",
    "dcgm_total_energy_consumption": ("energy_j", 1e-3), "dcgm_pcie_replay_counter": "pcie_replays",
    "dcgm_gpu_utilization": "gpu_util_pct", "dcgm_mem_copy_utilization": "mem_util_pct",
    "dcgm_enc_utilization": "encoder_util_pct", "dcgm_dec_utilization": "decoder_util_pct", "dcgm_xid_errors": XID,
    "dcgm_power_violation": ("throttle_power_s", 1e-6), "dcgm_thermal_violation": ("throttle_thermal_s", 1e-6),
    "dcgm_fb_free": ("memory_free_bytes", MIB), "dcgm_fb_used": ("memory_used_bytes", MIB),
    "dcgm_fb_total": ("memory_total_bytes", MIB), "dcgm_ecc_sbe_volatile_total": "ecc_sbe",
    "dcgm_ecc_dbe_volatile_total": "ecc_dbe", "dcgm_ecc_sbe_aggregate_total": "ecc_sbe_total",
    "dcgm_ecc_dbe_aggregate_total": "ecc_dbe_total", "dcgm_retired_pages_sbe": "retired_pages_sbe",
    "dcgm_retired_pages_dbe": "retired_pages_dbe", "dcgm_retired_pages_pending": "retired_pages_pending",
    "dcgm_nvlink_flit_crc_error_count_total": "nvlink_crc_flit_errors",
    "dcgm_nvlink_data_crc_error_count_total": "nvlink_crc_data_errors",
    "dcgm_nvlink_replay_error_count_total": "nvlink_replay_errors",
    "dcgm_nvlink_recovery_error_count_total": "nvlink_recovery_errors",
})  # fmt: skip
_OWN = _all("own", {m.prometheus: m.name for m in METRICS})
_TPU = _all("tpu", {
    "duty_cycle": "gpu_util_pct", "tensorcore_utilization": "tensor_util_pct",
    "memory_bandwidth_utilization": "dram_util_pct", "memory_used": "memory_used_bytes",
    "memory_total": "memory_total_bytes",
})  # fmt: skip
_SMI_NAMES: dict[str, tuple[str, float] | str] = {
    "utilization_gpu_ratio": ("gpu_util_pct", 100.0), "utilization_memory_ratio": ("mem_util_pct", 100.0),
    "utilization_encoder_ratio": ("encoder_util_pct", 100.0),
    "utilization_decoder_ratio": ("decoder_util_pct", 100.0), "memory_used_bytes": "memory_used_bytes",
    "memory_total_bytes": "memory_total_bytes", "memory_free_bytes": "memory_free_bytes",
    "memory_reserved_bytes": "memory_reserved_bytes", "power_draw_watts": "power_w",
    "power_draw_average_watts": "power_w", "power_draw_instant_watts": "power_instant_w",
    "power_limit_watts": "power_cap_w", "enforced_power_limit_watts": "power_enforced_w",
    "temperature_gpu": "temp_c", "temperature_memory": "temp_mem_c", "fan_speed_ratio": ("fan_pct", 100.0),
    "clocks_current_sm_clock_hz": ("clock_sm_mhz", 1e-6),
    "clocks_current_memory_clock_hz": ("clock_mem_mhz", 1e-6),
    "clocks_current_graphics_clock_hz": ("clock_graphics_mhz", 1e-6),
    "clocks_current_video_clock_hz": ("clock_video_mhz", 1e-6), "pstate": "pstate",
    "clocks_throttle_reasons_active": "clock_event_reasons", "clocks_event_reasons_active": "clock_event_reasons",
    "ecc_errors_corrected_volatile_total": "ecc_sbe", "ecc_errors_uncorrected_volatile_total": "ecc_dbe",
    "ecc_errors_corrected_aggregate_total": "ecc_sbe_total",
    "ecc_errors_uncorrected_aggregate_total": "ecc_dbe_total",
    "remapped_rows_correctable": "remapped_rows_corrected", "remapped_rows_uncorrectable": "remapped_rows",
    "remapped_rows_pending": "row_remap_pending", "remapped_rows_failure": "row_remap_failure",
    "retired_pages_single_bit_ecc_count": "retired_pages_sbe", "retired_pages_double_bit_count":
    "retired_pages_dbe", "retired_pages_pending": "retired_pages_pending", "energy_joules_total": "energy_j",
    "pcie_link_gen_current": "pcie_gen", "pcie_link_width_current": "pcie_width",
}  # fmt: skip
_SMI = _all("nvidia_smi", {f"nvidia_smi_{name}": to for name, to in _SMI_NAMES.items()})
_MINDPRINCE = _all("nvidia_gpu", {
    "nvidia_gpu_duty_cycle": "gpu_util_pct", "nvidia_gpu_memory_used_bytes": "memory_used_bytes",
    "nvidia_gpu_memory_total_bytes": "memory_total_bytes", "nvidia_gpu_temperature_celsius": "temp_c",
    "nvidia_gpu_power_usage_milliwatts": ("power_w", 1e-3), "nvidia_gpu_fanspeed_percent": "fan_pct",
})  # fmt: skip
_AMD = _all("amd", {
    "gpu_package_power": "power_w", "gpu_average_package_power": "power_w", "gpu_power_usage": "power_w",
    "gpu_energy_consumed": ("energy_j", 1e-6), "gpu_junction_temperature": "temp_c", "gpu_edge_temperature": "temp_c",
    "gpu_memory_temperature": "temp_mem_c", "gpu_gfx_activity": "gpu_util_pct", "gpu_umc_activity": "mem_util_pct",
    "gpu_total_vram": ("memory_total_bytes", MIB), "gpu_used_vram": ("memory_used_bytes", MIB),
    "gpu_free_vram": ("memory_free_bytes", MIB), "gpu_ecc_correct_total": "ecc_sbe",
    "gpu_ecc_uncorrect_total": "ecc_dbe", "pcie_replay_count": "pcie_replays",
    "pcie_replay_rollover_count": "pcie_replay_rollovers", "pcie_nack_sent_count": "pcie_naks_sent",
    "pcie_nack_received_count": "pcie_naks_received", "gpu_clock": "clock_sm_mhz",
})  # fmt: skip
_AMD_CLOCKS = {"GPU_CLOCK_TYPE_SYSTEM": "clock_sm_mhz", "GPU_CLOCK_TYPE_MEMORY": "clock_mem_mhz",
               "GPU_CLOCK_TYPE_VIDEO": "clock_video_mhz"}  # fmt: skip
_EXACT: dict[str, Meaning] = _DCGM | _OLD_DCGM | _OWN | _TPU | _SMI | _MINDPRINCE
# Lines that identify a device rather than describe its state.
DESCRIPTIONS = frozenset({"nvidia_smi_gpu_info", "nvidia_smi_index"})
# Metrics that every exporter reports about itself.
EXPORTER_PREFIXES = ("go_", "process_", "python_", "promhttp_", "scrape_", "up", "exporter_")
READ = "dcgm-exporter, nvidia_gpu_exporter, AMD's device-metrics-exporter, TPU device plugins and other agents"

_UINT_MAX = (65535.0, 4294967295.0)


def meaning_of(line: Line) -> Meaning | None:
    """Return the meaning of a metric name; None for an unknown one."""
    found = _EXACT.get(line.name) or _EXACT.get(line.name.removesuffix("_total"))
    if found is not None:
        return found
    found = _AMD.get(line.name.lower().removeprefix("amd_"))
    if found is not None and found.metric == "clock_sm_mhz":
        kind = line.labels.get("clock_type", "GPU_CLOCK_TYPE_SYSTEM")
        return found._replace(metric=_AMD_CLOCKS[kind]) if kind in _AMD_CLOCKS else None
    return found


def is_blank(line: Line, meaning: Meaning) -> bool:
    """Whether the number encodes a missing value.

    DCGM's blanks (also not found, not supported, not permitted) start at 0x7ffffff0 for int32, at 2^47 for fp64 and
    at 2^63 - 16 for int64; AMD's driver fills missing values with ones.
    """
    value = line.value
    if not math.isfinite(value):
        return True
    if meaning.dialect == "amd":
        return value in _UINT_MAX or value >= 2.0**63
    if meaning.dialect == "dcgm":
        return 0x7FFFFFF0 <= value <= 0x7FFFFFFF or value >= 2.0**47
    return value >= 2.0**62

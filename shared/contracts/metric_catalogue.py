"""The one table of metrics. Database columns, panels, Prometheus names and documents derive from it.

Sources: NVML API reference and pynvml 13 (calls and field ids), the counters file of dcgm-exporter
(DCGM names).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["gauge", "counter"]
Rate = Literal["fast", "medium", "slow", "static"]


@dataclass(frozen=True)
class Metric:
    """A metric: our name (with its unit), how NVML reads it, and the DCGM field of the same meaning.

    `rate` says how often the driver is asked: fast is every tick, medium every 10 s, slow every
    minute, static when devices are looked for. `held` metrics are settings: between two readings
    their last value still holds and is repeated, which a measurement's never is.
    `rebase_at` bounds a counter in a frame, where float32 must still resolve one tick's growth.
    `noise_floor` is the smallest spread that the streaming statistic assumes, in the metric's
    unit; None means that the metric follows the load and is not watched on its own.
    `dcgm_scale` turns our unit into DCGM's.
    """

    name: str
    unit: str
    kind: Kind
    help: str
    rate: Rate = "fast"
    nvml: str = ""
    dcgm: str = ""
    dcgm_scale: float = 1.0
    noise_floor: float | None = None
    held: bool = False
    rebase_at: float | None = None

    @property
    def prometheus(self) -> str:
        """Return its name on a metrics page, where a counter ends in `_total`.

        A counter named total already counts over the device's life; its name must not collide with another's.
        """
        base = self.name.removesuffix("_total") + "_lifetime" if self._lifetime else self.name
        return f"autopilot_device_{base}"

    @property
    def _lifetime(self) -> bool:
        return self.kind == "counter" and self.name.endswith("_total")

    @property
    def is_double(self) -> bool:
        """Whether the column is double precision rather than real."""
        return self.name.endswith(("_bytes", "_j"))

    @property
    def rollups(self) -> tuple[str, ...]:
        """Return what rollups keep: the spread within a bucket matters for a gauge, not for a counter, flag or code."""
        if self.rate == "static":
            return ()
        measured = self.kind == "gauge" and self.rate != "slow" and self.unit not in {"bitmask", "enum"}
        return ("min", "avg", "max", "last") if measured else ("max", "last")


_MIB = 1 / 2**20
_BYTES = 2.0**43  # float32 resolves 0.5 MiB there, a hundredth of what an idle link transfers in a minute


def _gauge(name: str, unit: str, text: str, nvml: str = "", dcgm: str = "", rate: Rate = "fast") -> Metric:
    return Metric(name, unit, "gauge", text, rate, nvml, dcgm)


def _ratio(name: str, text: str, nvml: str, dcgm: str) -> Metric:
    return Metric(name, "%", "gauge", text, "fast", nvml, dcgm, 0.01)


def _count(name: str, text: str, nvml: str = "", dcgm: str = "", rate: Rate = "medium") -> Metric:
    return Metric(name, "1", "counter", text, rate, nvml, dcgm)


def _throttle(name: str, text: str, field: str, dcgm: str = "") -> Metric:
    return Metric(name, "s", "counter", text, "medium", field, dcgm, 1e9, rebase_at=2.0**14)


def _transfer(name: str, text: str, nvml: str, dcgm: str = "") -> Metric:
    return Metric(name, "B", "counter", text, "medium", nvml, dcgm, rebase_at=_BYTES)


METRICS: tuple[Metric, ...] = (
    _gauge("gpu_util_pct", "%", "time with a kernel running", "UtilizationRates.gpu", "DCGM_FI_DEV_GPU_UTIL"),
    _gauge("mem_util_pct", "%", "memory controller busy", "UtilizationRates.memory", "DCGM_FI_DEV_MEM_COPY_UTIL"),
    _gauge("encoder_util_pct", "%", "video encoder busy", "EncoderUtilization", "DCGM_FI_DEV_ENC_UTIL", "medium"),
    _gauge("decoder_util_pct", "%", "video decoder busy", "DecoderUtilization", "DCGM_FI_DEV_DEC_UTIL", "medium"),
    Metric("memory_used_bytes", "B", "gauge", "memory in use", "fast", "MemoryInfo.used", "DCGM_FI_DEV_FB_USED", _MIB),
    Metric(
        "memory_total_bytes", "B", "gauge", "total memory", "fast", "MemoryInfo.total", "DCGM_FI_DEV_FB_TOTAL", _MIB
    ),
    _gauge("power_w", "W", "power drawn, averaged by the driver", "PowerUsage", "DCGM_FI_DEV_POWER_USAGE"),
    Metric(
        "energy_j",
        "J",
        "counter",
        "energy drawn",
        "fast",
        "TotalEnergyConsumption (FI 83)",
        "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION",
        1e3,
        rebase_at=2.0**22,
    ),
    Metric(
        "power_cap_w",
        "W",
        "gauge",
        "power cap requested",
        "medium",
        "PowerManagementLimit",
        "DCGM_FI_DEV_POWER_MGMT_LIMIT",
        held=True,
    ),
    Metric(
        "power_enforced_w",
        "W",
        "gauge",
        "power cap in force",
        "medium",
        "EnforcedPowerLimit",
        "DCGM_FI_DEV_ENFORCED_POWER_LIMIT",
        held=True,
    ),
    Metric(
        "temp_c",
        "°C",
        "gauge",
        "temperature of the processor",
        "fast",
        "TemperatureV (GPU)",
        "DCGM_FI_DEV_GPU_TEMP",
        noise_floor=5.0,
    ),
    Metric(
        "temp_mem_c",
        "°C",
        "gauge",
        "temperature of the memory",
        "fast",
        "FI 82",
        "DCGM_FI_DEV_MEMORY_TEMP",
        noise_floor=5.0,
    ),
    Metric("temp_slowdown_c", "°C", "gauge", "temperature at which clocks are lowered", "static", "FI 194", held=True),
    Metric("fan_pct", "%", "gauge", "fan speed", "medium", "FanSpeed_v2", "DCGM_FI_DEV_FAN_SPEED", noise_floor=8.0),
    _gauge("clock_sm_mhz", "MHz", "streaming multiprocessor clock", "ClockInfo (SM)", "DCGM_FI_DEV_SM_CLOCK"),
    _gauge("clock_mem_mhz", "MHz", "memory clock", "ClockInfo (MEM)", "DCGM_FI_DEV_MEM_CLOCK"),
    _gauge(
        "clock_event_reasons",
        "bitmask",
        "why clocks are lowered",
        "CurrentClocksEventReasons",
        "DCGM_FI_DEV_CLOCKS_EVENT_REASONS",
    ),
    _count("pcie_replays", "PCIe replays", "FI 94", "DCGM_FI_DEV_PCIE_REPLAY_COUNTER"),
    _count("ecc_sbe", "corrected memory errors since the driver was loaded", "FI 3", "DCGM_FI_DEV_ECC_SBE_VOL_TOTAL"),
    _count("ecc_dbe", "uncorrected memory errors since the driver was loaded", "FI 4", "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL"),
    _count(
        "remapped_rows",
        "memory rows remapped for uncorrectable errors",
        "RemappedRows (FI 143)",
        "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS",
        "slow",
    ),
    _gauge(
        "row_remap_pending",
        "flag",
        "a row remapping is pending until a reset",
        "RemappedRows (FI 144)",
        "DCGM_FI_DEV_ROW_REMAP_PENDING",
        "slow",
    ),
    _gauge(
        "row_remap_failure",
        "flag",
        "a row remapping failed",
        "RemappedRows (FI 145)",
        "DCGM_FI_DEV_ROW_REMAP_FAILURE",
        "slow",
    ),
    _gauge("processes", "1", "processes on the device", "ComputeRunningProcesses", "", "medium"),
    _ratio("sm_util_pct", "multiprocessors with a resident warp", "GPM 2", "DCGM_FI_PROF_SM_ACTIVE"),
    _ratio("sm_occupancy_pct", "resident warps, share of the maximum", "GPM 3", "DCGM_FI_PROF_SM_OCCUPANCY"),
    _ratio("tensor_util_pct", "tensor cores busy", "GPM 5", "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE"),
    _ratio("dram_util_pct", "memory bandwidth used", "GPM 10", "DCGM_FI_PROF_DRAM_ACTIVE"),
    _ratio("engine_util_pct", "graphics or compute engine active", "GPM 1", "DCGM_FI_PROF_GR_ENGINE_ACTIVE"),
    Metric("memory_free_bytes", "B", "gauge", "memory free", "fast", "MemoryInfo_v2.free", "DCGM_FI_DEV_FB_FREE", _MIB),
    Metric(
        "memory_reserved_bytes",
        "B",
        "gauge",
        "memory reserved by the driver",
        "fast",
        "MemoryInfo_v2.reserved",
        "DCGM_FI_DEV_FB_RESERVED",
        _MIB,
    ),
    _gauge("bar1_used_bytes", "B", "BAR1 memory in use", "BAR1MemoryInfo", "", "slow"),
    _gauge("power_instant_w", "W", "instantaneous power", "FI 186, scope GPU"),
    _gauge("power_module_w", "W", "power drawn by the module", "FI 185, scope MODULE"),
    _gauge("power_memory_w", "W", "power drawn by the memory", "FI 185, scope MEMORY"),
    _gauge(
        "temp_margin_c",
        "°C",
        "margin to the temperature at which clocks are lowered",
        "MarginTemperature",
        "",
        "medium",
    ),
    _gauge("fan_rpm", "rpm", "fan speed", "FanSpeedRPM", "", "medium"),
    _gauge("clock_graphics_mhz", "MHz", "graphics clock", "ClockInfo (GRAPHICS)"),
    _gauge("clock_video_mhz", "MHz", "video clock", "ClockInfo (VIDEO)", "DCGM_FI_DEV_VIDEO_CLOCK"),
    _gauge("pstate", "1", "performance state, 0 is the highest", "PerformanceState", "DCGM_FI_DEV_PSTATE", "medium"),
    _throttle("throttle_power_s", "time slowed by the power limit", "FI 74", "DCGM_FI_DEV_POWER_VIOLATION"),
    _throttle("throttle_thermal_s", "time slowed by heat", "FI 75", "DCGM_FI_DEV_THERMAL_VIOLATION"),
    _throttle("throttle_sync_boost_s", "time slowed by sync boost", "FI 76", "DCGM_FI_DEV_SYNC_BOOST_VIOLATION"),
    _throttle("throttle_board_s", "time slowed by the board", "FI 77", "DCGM_FI_DEV_BOARD_LIMIT_VIOLATION"),
    _throttle("throttle_low_util_s", "time slowed because of low load", "FI 78", "DCGM_FI_DEV_LOW_UTIL_VIOLATION"),
    _throttle(
        "throttle_reliability_s", "time slowed for voltage reliability", "FI 79", "DCGM_FI_DEV_RELIABILITY_VIOLATION"
    ),
    _throttle("throttle_sw_thermal_s", "time slowed by the driver because of heat", "FI 269"),
    _throttle("throttle_hw_thermal_s", "time slowed by the device because of heat", "FI 270"),
    _throttle("throttle_power_brake_s", "time slowed by the power brake", "FI 271"),
    _gauge("recovery_action", "enum", "recovery action requested by the driver", "FI 230", "", "medium"),
    _count("ecc_sbe_total", "corrected memory errors over the device's life", "FI 5", "DCGM_FI_DEV_ECC_SBE_AGG_TOTAL"),
    _count(
        "ecc_dbe_total", "uncorrected memory errors over the device's life", "FI 6", "DCGM_FI_DEV_ECC_DBE_AGG_TOTAL"
    ),
    _count(
        "remapped_rows_corrected",
        "memory rows remapped for correctable errors",
        "RemappedRows (FI 142)",
        "DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS",
        "slow",
    ),
    _count("retired_pages_sbe", "pages retired for corrected errors", "FI 29", "DCGM_FI_DEV_RETIRED_SBE", "slow"),
    _count("retired_pages_dbe", "pages retired for uncorrected errors", "FI 30", "DCGM_FI_DEV_RETIRED_DBE", "slow"),
    _gauge(
        "retired_pages_pending",
        "flag",
        "page retirements are pending until a reboot",
        "FI 31",
        "DCGM_FI_DEV_RETIRED_PENDING",
        "slow",
    ),
    _count("pcie_replay_rollovers", "PCIe replay counter overflows", "FI 95"),
    _count("pcie_correctable_errors", "PCIe correctable errors", "FI 173", "", "slow"),
    _count("pcie_naks_received", "PCIe NAKs received", "FI 174", "", "slow"),
    _count("pcie_receiver_errors", "PCIe receiver errors", "FI 175", "", "slow"),
    _count("pcie_bad_tlp", "PCIe bad TLPs", "FI 176", "", "slow"),
    _count("pcie_naks_sent", "PCIe NAKs sent", "FI 177", "", "slow"),
    _count("pcie_bad_dllp", "PCIe bad DLLPs", "FI 178", "", "slow"),
    _count("pcie_non_fatal_errors", "PCIe non-fatal errors", "FI 179", "", "slow"),
    _count("pcie_fatal_errors", "PCIe fatal errors", "FI 180", "", "slow"),
    _count("pcie_unsupported_requests", "PCIe unsupported requests", "FI 181", "", "slow"),
    _count("pcie_lcrc_errors", "PCIe LCRC errors", "FI 182", "", "slow"),
    _count("pcie_lane_errors", "PCIe lane errors", "FI 183", "", "slow"),
    _transfer("pcie_tx_bytes", "bytes sent over PCIe", "FI 197"),
    _transfer("pcie_rx_bytes", "bytes received over PCIe", "FI 198"),
    _gauge("pcie_gen", "1", "PCIe generation in use", "CurrPcieLinkGeneration", "DCGM_FI_DEV_PCIE_LINK_GEN", "slow"),
    _gauge("pcie_width", "1", "PCIe lanes in use", "CurrPcieLinkWidth", "DCGM_FI_DEV_PCIE_LINK_WIDTH", "slow"),
    _gauge("nvlink_active", "1", "NVLinks up", "NvLinkState", "", "slow"),
    _transfer("nvlink_tx_bytes", "bytes sent over NVLink", "FI 202 or GPM 61"),
    _transfer("nvlink_rx_bytes", "bytes received over NVLink", "FI 204 or GPM 60"),
    _count(
        "nvlink_crc_flit_errors",
        "NVLink flit CRC errors, all links",
        "NvLinkErrorCounter",
        "DCGM_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL",
    ),
    _count(
        "nvlink_crc_data_errors",
        "NVLink data CRC errors, all links",
        "NvLinkErrorCounter",
        "DCGM_FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL",
    ),
    _count(
        "nvlink_replay_errors",
        "NVLink replays, all links",
        "NvLinkErrorCounter",
        "DCGM_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL",
    ),
    _count(
        "nvlink_recovery_errors",
        "NVLink recoveries, all links",
        "NvLinkErrorCounter",
        "DCGM_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL",
    ),
    _gauge("read_time_s", "s", "time to read the device"),
    _count("read_errors", "failed readings", rate="fast"),
)

BY_NAME: dict[str, Metric] = {metric.name: metric for metric in METRICS}
NAMES: tuple[str, ...] = tuple(BY_NAME)
PERIODS_S: dict[Rate, float] = {"fast": 0.0, "medium": 10.0, "slow": 60.0, "static": 600.0}

# The driver's own verdict, NVML_FI_DEV_GET_GPU_RECOVERY_ACTION.
RECOVERY_ACTIONS: dict[int, str] = {
    0: "none",
    1: "gpu_reset",
    2: "node_reboot",
    3: "drain_p2p",
    4: "drain_and_reset",
    5: "imex_reset",
    6: "bus_reset",
    7: "system_reboot",
}

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
    """Return the names of the bits of nvmlDeviceGetCurrentClocksEventReasons."""
    return [name for bit, name in CLOCK_EVENT_REASONS.items() if mask & bit]

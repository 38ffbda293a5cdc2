"""The metrics that detection looks at, in the order of its arrays' columns."""

from __future__ import annotations

from shared.metrics_catalogue import METRICS

_UNWATCHED = {
    "encoder_util_pct", "decoder_util_pct", "engine_util_pct", "energy_j", "bar1_used_bytes", "memory_free_bytes",
    "memory_reserved_bytes", "clock_graphics_mhz", "clock_video_mhz", "pcie_tx_bytes", "pcie_rx_bytes",
    "nvlink_tx_bytes", "nvlink_rx_bytes", "throttle_power_s", "throttle_thermal_s", "throttle_sync_boost_s",
    "throttle_board_s", "throttle_low_util_s", "throttle_reliability_s", "throttle_sw_thermal_s",
    "throttle_hw_thermal_s", "throttle_power_brake_s",
}  # fmt: skip
COLUMNS: tuple[str, ...] = tuple(m.name for m in METRICS if m.name not in _UNWATCHED)
COLUMN = {name: i for i, name in enumerate(COLUMNS)}

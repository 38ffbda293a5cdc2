"""The metrics that detection uses, in the order of its arrays' columns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from accelerator_autopilot.contracts.metric_catalogue import METRICS

_UNWATCHED = {
    "encoder_util_pct", "decoder_util_pct", "engine_util_pct", "energy_j", "bar1_used_bytes", "memory_free_bytes",
    "memory_reserved_bytes", "clock_graphics_mhz", "clock_video_mhz", "pcie_tx_bytes", "pcie_rx_bytes",
    "nvlink_tx_bytes", "nvlink_rx_bytes", "throttle_power_s", "throttle_thermal_s", "throttle_sync_boost_s",
    "throttle_board_s", "throttle_low_util_s", "throttle_reliability_s", "throttle_sw_thermal_s",
    "throttle_hw_thermal_s", "throttle_power_brake_s",
}  # fmt: skip
COLUMNS: tuple[str, ...] = tuple(m.name for m in METRICS if m.name not in _UNWATCHED)
COLUMN = {name: i for i, name in enumerate(COLUMNS)}


def columns_of(metrics: Sequence[str]) -> tuple[list[int], list[int]]:
    """Return the positions of the used ones among `metrics`, and their columns."""
    pairs = [(i, COLUMN[name]) for i, name in enumerate(metrics) if name in COLUMN]
    return [i for i, _ in pairs], [j for _, j in pairs]


def matrix(values: npt.NDArray[np.float32], metrics: Sequence[str]) -> npt.NDArray[np.float32]:
    """Rearrange values [rows, metrics] to [rows, COLUMNS]."""
    here, there = columns_of(metrics)
    out = np.full((len(values), len(COLUMNS)), np.nan, np.float32)
    out[:, there] = values[:, here]
    # Infinite values are not readings.
    out[~np.isfinite(out)] = np.nan
    return out

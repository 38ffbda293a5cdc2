"""What is known of every device that can be capped, kept as arrays between decisions."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import numpy as np

from services.scheduler.domain.caps import DeviceBoard
from services.scheduler.domain.drains import Device
from services.scheduler.domain.power_curves import curve_of
from shared.messages.telemetry import DeviceInfo


class CapBoard:
    """Made anew when the inventory changes; caps that we set are remembered across that."""

    def __init__(self, devices: Mapping[Device, DeviceInfo], before: CapBoard | None = None) -> None:
        able = {d: i for d, i in devices.items() if i.power_default_w and i.power_min_w}
        self._names = list(able)
        self._rows = {name: row for row, name in enumerate(self._names)}
        infos = list(able.values())
        self._models = [i.model for i in infos]
        self._simulated = np.array([i.simulated for i in infos], bool)
        self._default_w = np.array([i.power_default_w for i in infos], float)
        self._lowest_w = np.array([i.power_min_w for i in infos], float)
        spans = [curve_of(i.model, i.power_default_w, i.power_min_w).span_w for i in infos]
        self._span_w = np.array(spans, float).reshape(-1, 2)
        self._ours_w = np.full(len(infos), np.nan)
        self._ours_at_s = np.full(len(infos), np.nan)
        for name, (cap_w, at_s) in (before.ours() if before else {}).items():
            if name in self._rows:
                self._ours_w[self._rows[name]], self._ours_at_s[self._rows[name]] = cap_w, at_s

    def ours(self) -> dict[Device, tuple[float, float]]:
        """Devices that we capped: watts, and when."""
        rows = np.flatnonzero(~np.isnan(self._ours_w))
        return {self._names[row]: (float(self._ours_w[row]), float(self._ours_at_s[row])) for row in rows}

    def remember(self, device: Device, cap_w: float, at: datetime) -> None:
        """A cap was sent."""
        row = self._rows[device]
        self._ours_w[row], self._ours_at_s[row] = cap_w, at.timestamp()

    def board(
        self, caps_now_w: Mapping[Device, float], wanted_levels: Mapping[Device, float], cap_fraction: float | None
    ) -> DeviceBoard:
        """As the decision about caps reads it; a device that no policy wants anything of has NaN there."""
        wanted_w = np.full(len(self._names), np.nan)
        known = [(self._rows[d], level) for d, level in wanted_levels.items() if d in self._rows]
        if known and cap_fraction is not None:
            rows, levels = np.array(known, float).T
            at = rows.astype(np.intp)
            low, high = self._span_w[at].T
            wanted_w[at] = np.maximum(
                low + np.clip(levels, 0.0, 1.0) * (high - low), cap_fraction * self._default_w[at]
            )
        return DeviceBoard(
            devices=self._names,
            models=self._models,
            simulated=self._simulated,
            default_w=self._default_w,
            lowest_w=self._lowest_w,
            told_w=lambda rows: np.array([caps_now_w.get(self._names[row], np.nan) for row in rows.tolist()], float),
            wanted_w=wanted_w,
            ours_w=self._ours_w,
            ours_at_s=self._ours_at_s,
        )

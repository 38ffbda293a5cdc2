"""The state of all devices with power caps, kept as arrays between decisions."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from accelerator_autopilot.runtime.cooperative_loops import CooperativeLoop
from accelerator_autopilot.scheduler.domain.device_facts import DeviceFacts, DeviceRegistry
from accelerator_autopilot.scheduler.domain.drain_decisions import Device
from accelerator_autopilot.scheduler.domain.latest_readings import Readings
from accelerator_autopilot.scheduler.domain.power_capping import DeviceCapState
from accelerator_autopilot.scheduler.domain.power_curves import curve_of

NOBODY: Device = ("", "")
FIRST_ROWS = 256


class PowerCapState:
    """Follows the inventory node by node; caps that the scheduler set survive other changes of a device."""

    def __init__(self) -> None:
        self._nodes: dict[str, tuple[DeviceFacts, ...]] = {}
        self._rows: dict[Device, int] = {}
        self._rows_of_node: dict[str, list[int]] = {}
        self._models: dict[str, int] = {}
        self._away: dict[Device, tuple[float, float]] = {}
        self._free: list[int] = []
        self._names: list[Device] = []
        self._model = np.zeros(0, np.int64)
        self._simulated = np.zeros(0, bool)
        self._default_w, self._lowest_w, self._ours_w, self._ours_at_s = (np.zeros(0) for _ in range(4))
        self._span_w = np.zeros((0, 2))
        self._grow()

    async def follow(self, book: DeviceRegistry) -> None:
        """Update the nodes that changed."""
        turns = CooperativeLoop()
        while book.changed:
            node = book.changed.pop()
            self._leave(node)
            if node in book.nodes:
                self._enter(node, book.nodes[node])
            await turns.give()
        self._away.clear()

    def ours(self) -> dict[Device, tuple[float, float]]:
        """Return the devices that the scheduler capped: watts, and when."""
        rows = np.flatnonzero(~np.isnan(self._ours_w))
        return {self._names[row]: (float(self._ours_w[row]), float(self._ours_at_s[row])) for row in rows}

    def remember(self, device: Device, cap_w: float, at: datetime) -> None:
        """Record that a cap was sent."""
        row = self._rows.get(device)
        if row is not None:
            self._ours_w[row], self._ours_at_s[row] = cap_w, at.timestamp()

    def board(
        self, caps_now_w: Readings, wanted_levels: Mapping[Device, float], cap_fraction: float | None
    ) -> DeviceCapState:
        """Return the input of the cap decision; devices for which no policy wants a cap have NaN."""
        wanted_w = np.full(len(self._names), np.nan)
        known = [(row, level) for d, level in wanted_levels.items() if (row := self._rows.get(d)) is not None]
        if known and cap_fraction is not None:
            rows, levels = np.array(known, float).T
            at = rows.astype(np.intp)
            low, high = self._span_w[at].T
            wanted_w[at] = np.maximum(
                low + np.clip(levels, 0.0, 1.0) * (high - low), cap_fraction * self._default_w[at]
            )
        return DeviceCapState(
            devices=self._names,
            rows=self._rows,
            rows_of_node=self._rows_of_node,
            rows_of_model=self._of_model,
            simulated=self._simulated,
            default_w=self._default_w,
            lowest_w=self._lowest_w,
            reported_w=lambda rows: caps_now_w.many([self._names[row] for row in rows.tolist()]),
            wanted_w=wanted_w,
            ours_w=self._ours_w,
            ours_at_s=self._ours_at_s,
        )

    def _of_model(self, model: str) -> NDArray[np.intp]:
        number = self._models.get(model)
        return np.zeros(0, np.intp) if number is None else np.flatnonzero(self._model == number)

    def _enter(self, node: str, facts: tuple[DeviceFacts, ...]) -> None:
        self._nodes[node], rows = facts, []
        for each in facts:
            if not each.power_default_w or not each.power_min_w:
                continue
            if not self._free:
                self._grow()
            row, name = self._free.pop(), (node, each.device)
            self._names[row], self._rows[name] = name, row
            self._model[row] = self._models.setdefault(each.model, len(self._models))
            self._simulated[row] = each.simulated
            self._default_w[row], self._lowest_w[row] = each.power_default_w, each.power_min_w
            self._span_w[row] = curve_of(each.model, each.power_default_w, each.power_min_w).span_w
            self._ours_w[row], self._ours_at_s[row] = self._away.pop(name, (np.nan, np.nan))
            rows.append(row)
        self._rows_of_node[node] = rows

    def _leave(self, node: str) -> None:
        self._nodes.pop(node, None)
        for row in self._rows_of_node.pop(node, ()):
            if not np.isnan(self._ours_w[row]):
                self._away[self._names[row]] = float(self._ours_w[row]), float(self._ours_at_s[row])
            del self._rows[self._names[row]]
            self._clear(row)
            self._free.append(row)

    def _clear(self, row: int | slice) -> None:
        self._model[row], self._simulated[row] = -1, False
        self._default_w[row] = self._lowest_w[row] = self._span_w[row] = 0.0
        self._ours_w[row] = self._ours_at_s[row] = np.nan
        for each in range(*row.indices(len(self._names))) if isinstance(row, slice) else [row]:
            self._names[each] = NOBODY

    def _grow(self) -> None:
        before = len(self._names)
        after = max(FIRST_ROWS, 2 * before)
        self._names += [NOBODY] * (after - before)
        for name in ("_model", "_simulated", "_default_w", "_lowest_w", "_ours_w", "_ours_at_s", "_span_w"):
            array = getattr(self, name)
            wider = np.zeros((after, *array.shape[1:]), array.dtype)
            wider[:before] = array
            setattr(self, name, wider)
        self._clear(slice(before, after))
        self._free += range(before, after)

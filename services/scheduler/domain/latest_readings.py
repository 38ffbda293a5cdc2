"""The newest readings of every device: a column per metric, a row per device. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from accelerator_autopilot.scheduler.domain.drain_decisions import Device
from accelerator_autopilot.scheduler.domain.pool_arrays import Doubles

Floats = NDArray[np.float32]
FIRST_ROWS = 1024


class LatestReadings:
    """Only the metrics that decisions read; readings older than a node's newest tick are dropped."""

    def __init__(self, metrics: Sequence[str]) -> None:
        self.metrics = {name: column for column, name in enumerate(metrics)}
        self._values: Floats = np.full((len(self.metrics), FIRST_ROWS), np.nan, np.float32)
        self._at_s = np.full(FIRST_ROWS, -np.inf)
        self._rows: dict[Device, int] = {}
        self._of_node: dict[str, tuple[tuple[str, ...], NDArray[np.intp]]] = {}
        self._free: list[int] = list(range(FIRST_ROWS))

    def __len__(self) -> int:
        """Return how many devices have a row."""
        return len(self._rows)

    def rows_of(self, node: str, devices: tuple[str, ...]) -> NDArray[np.intp]:
        """Return the rows of a node's devices, in order; devices that it no longer reports lose theirs."""
        known = self._of_node.get(node)
        if known is not None and (known[0] is devices or known[0] == devices):
            return known[1]
        before = set(known[0]) if known else set()
        for gone in before.difference(devices):
            self._drop((node, gone))
        rows = np.array([self._row((node, device)) for device in devices], np.intp)
        self._of_node[node] = devices, rows
        return rows

    def write(self, rows: NDArray[np.intp], readings: Mapping[str, Floats], at_s: Doubles | float) -> None:
        """Store readings that arrived at `at_s`, [len(rows)] by metric; unused metrics are skipped."""
        self._at_s[rows] = at_s
        for name, column in self.metrics.items():
            values = readings.get(name)
            if values is None:
                self._values[column, rows] = np.nan
                continue
            # Infinite values are not readings.
            self._values[column, rows] = np.where(np.isfinite(values), values, np.float32(np.nan))

    def forget(self, node: str) -> None:
        """Forget a node that has been silent for long."""
        known = self._of_node.pop(node, None)
        for device in known[0] if known else ():
            self._drop((node, device))

    def readings(self, metric: str, since_s: float) -> Readings:
        """Return a metric as reported at `since_s` or later."""
        return Readings(self._rows, self._values[self.metrics[metric]], self._at_s, since_s)

    def _row(self, device: Device) -> int:
        row = self._rows.get(device)
        if row is None:
            if not self._free:
                self._grow()
            row = self._rows[device] = self._free.pop()
        return row

    def _drop(self, device: Device) -> None:
        row = self._rows.pop(device)
        self._values[:, row], self._at_s[row] = np.nan, -np.inf
        self._free.append(row)

    def _grow(self) -> None:
        before = len(self._at_s)
        self._values = np.concatenate([self._values, np.full_like(self._values, np.nan)], axis=1)
        self._at_s = np.concatenate([self._at_s, np.full(before, -np.inf)])
        self._free = list(range(before, 2 * before))


@dataclass(frozen=True)
class Readings:
    """One metric of all devices, looked up by device; valid until the columns are written again."""

    _rows: dict[Device, int]
    _values: Floats
    _at_s: Doubles
    _since_s: float

    @classmethod
    def of(cls, readings: dict[Device, float]) -> Readings:
        """Return the readings of a few devices."""
        rows = {device: row for row, device in enumerate(readings)}
        return cls(rows, np.array(list(readings.values()), np.float32), np.zeros(len(readings)), 0.0)

    def get(self, device: Device) -> float | None:
        """Return a device's reading; None where it has none recently."""
        row = self._rows.get(device)
        if row is None or self._at_s[row] < self._since_s:
            return None
        value = float(self._values[row])
        return value if value == value else None  # noqa: PLR0124  not NaN

    def total(self, devices: Sequence[Device]) -> float:
        """Return the sum of the recent readings of some devices."""
        total = 0.0
        for device in devices:
            total += self.get(device) or 0.0
        return total

    def many(self, devices: Sequence[Device]) -> Doubles:
        """Return the readings of many devices; NaN where there is none recently."""
        if not self._rows:
            return np.full(len(devices), np.nan)
        rows = np.array([self._rows.get(device, -1) for device in devices], np.intp)
        readings = (rows >= 0) & (self._at_s[rows] >= self._since_s)
        return np.where(readings, self._values[rows], np.nan).astype(float)

"""Plot a replay: the relevant metrics of alerted devices, with the spans of their alerts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import matplotlib as mpl
import numpy as np

from accelerator_autopilot.anomaly.domain.last_values import Slots
from accelerator_autopilot.anomaly.domain.metric_columns import COLUMN, COLUMNS
from accelerator_autopilot.anomaly.domain.replay import Moment, ReplayedAlert
from accelerator_autopilot.anomaly.domain.row_blocks import Block

mpl.use("Agg")
from matplotlib import pyplot as plt

MAX_DEVICES, MAX_POINTS, MAX_KEPT = 8, 4_000, 20_000
SHOWN = ("gpu_util_pct", "power_w", "temp_c", "clock_sm_mhz")


class Recording:
    """Collects what to plot during a replay."""

    def __init__(self) -> None:
        self._series: dict[str, list[tuple[float, list[float]]]] = defaultdict(list)
        self._every = 1

    def keep(self, moments: Iterable[Moment]) -> Iterator[Moment]:
        """Record moments and pass them on."""
        columns = [COLUMN[name] for name in SHOWN]
        for moment in moments:
            for device, row in zip(moment.devices, moment.values[:, columns], strict=True):
                self._series[device].append((moment.at_s, row.tolist()))
            yield moment

    def keep_block(self, block: Block, names: list[str], slots: Slots) -> None:
        """Record a block's values of each device, thinned beyond what is visible."""
        places = {COLUMNS[column]: place for place, column in enumerate(block.columns.tolist())}
        for name, slot in zip(names, slots.tolist(), strict=True):
            rows = np.flatnonzero(block.slots == slot)[:: self._every]
            shown = np.full((len(rows), len(SHOWN)), np.nan)
            for column, metric in enumerate(SHOWN):
                if metric in places:
                    shown[:, column] = block.values[rows, places[metric]]
            self._series[name] += zip(block.at_s[rows].tolist(), shown.tolist(), strict=True)
        if max(map(len, self._series.values()), default=0) > MAX_KEPT:
            self._every *= 2
            for name in self._series:
                self._series[name] = self._series[name][::2]

    def draw(self, alerts: list[ReplayedAlert], path: Path) -> None:
        """Draw the plot; devices with alerts first."""
        alerted = list(dict.fromkeys(t.alert.device for t in alerts if t.alert.device in self._series))
        devices = (alerted + [d for d in self._series if d not in alerted])[:MAX_DEVICES]
        figure, axes = plt.subplots(max(1, len(devices)), 1, figsize=(14, 2.4 * max(1, len(devices))), squeeze=False)
        for axis, device in zip(axes[:, 0], devices, strict=False):
            points = self._series[device]
            step = max(1, len(points) // MAX_POINTS)
            hours = np.array([at for at, _ in points[::step]]) / 3600
            for column, name in enumerate(SHOWN):
                values = np.array([row[column] for _, row in points[::step]])
                highest = np.nanmax(values) if np.isfinite(values).any() else 0.0
                if highest > 0:
                    axis.plot(hours, values / highest, linewidth=0.7, label=f"{name} (1 = {highest:.0f})")
            for replayed in (t for t in alerts if t.alert.device == device):
                end_s = replayed.resolved_s if replayed.resolved_s is not None else points[-1][0]
                axis.axvspan(replayed.opened_s / 3600, end_s / 3600, alpha=0.25, color="tab:red")
                axis.text(replayed.opened_s / 3600, 1.02, replayed.alert.kind, fontsize=7)
            axis.set_title(device, loc="left", fontsize=9)
            axis.set_ylim(0, 1.15)
            axis.legend(fontsize=6, loc="upper right", ncols=4)
        axes[-1, 0].set_xlabel("hours")
        figure.tight_layout()
        figure.savefig(path, dpi=110)
        plt.close(figure)

"""The drill of `tests.benchmarks.faults` for general detectors: river's half-space trees and PyOD's isolation forest.

For an environment of its own: pip install river pyod polars numpy; then
python -m tests.benchmarks.peers.fault_detectors --traces FILE. The same seeds give the same faults. Each detector sees
the metrics of one device, learns from the calm days (river goes on learning), and alarms where the mean of its scores
over five minutes exceeds all that the second half of the calm days showed, times a margin.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pyod.models.iforest import IForest
from river import anomaly

from tests.benchmarks.drill_runs import CALM_DAYS, FAULT_HOURS, GRACE_S, PERIOD_S, drill_runs

METRICS = (
    "gpu_util_pct", "mem_util_pct", "power_w", "temp_c", "temp_mem_c", "fan_pct", "clock_sm_mhz", "memory_used_bytes",
    "ecc_sbe", "ecc_dbe", "pcie_replays", "nvlink_replay_errors", "row_remap_pending", "row_remap_failure",
    "recovery_action", "pcie_width", "pcie_gen", "nvlink_active", "clock_event_reasons",
)  # fmt: skip
COUNTERS = {"ecc_sbe", "ecc_dbe", "pcie_replays", "nvlink_replay_errors"}
MEAN_ROWS, MARGIN = 5, 1.05
Rows = np.ndarray[Any, np.dtype[np.float64]]


def half_space_trees(rows: Rows, first: int) -> Rows:
    """Online, on values scaled by the calm days."""
    model = anomaly.HalfSpaceTrees(n_trees=25, height=8, window_size=250, seed=0)
    low, high = rows[:first].min(axis=0), rows[:first].max(axis=0)
    scaled = np.clip((rows - low) / np.maximum(high - low, 1e-9) * 0.5 + 0.25, 0, 1)
    scores = np.zeros(len(rows))
    for t, row in enumerate(scaled):
        x = dict(enumerate(row.tolist()))
        scores[t] = model.score_one(x)
        model.learn_one(x)
    return scores


def isolation_forest(rows: Rows, first: int) -> Rows:
    """Trained on the calm days."""
    model = IForest(n_estimators=100, random_state=0)
    model.fit(rows[:first])
    scores: Rows = model.decision_function(rows)
    return scores


DETECTORS: dict[str, Callable[[Rows, int], Rows]] = {
    "river HalfSpaceTrees": half_space_trees,
    "PyOD IForest": isolation_forest,
}


def alarms(scores: Rows, first: int) -> list[int]:
    """Rows at which an alarm begins."""
    mean = np.convolve(scores, np.ones(MEAN_ROWS) / MEAN_ROWS)[: len(scores)]
    calm = mean[first // 2 : first]
    above = mean > calm.min() + MARGIN * (calm.max() - calm.min())
    above[:first] = False
    return np.flatnonzero(above & ~np.r_[False, above[:-1]]).tolist()


def device_rows(columns: dict[str, Rows], device: int) -> Rows:
    """Metrics of one device; counters as growth, what is missing as zero."""
    rows = np.stack([columns[name][:, device] for name in METRICS], 1)
    rows = np.where(np.isfinite(rows), rows, 0.0)
    for i, name in enumerate(METRICS):
        if name in COUNTERS:
            rows[:, i] = np.diff(rows[:, i], prepend=rows[0, i])
    return rows


def main() -> None:
    """Run the drill."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=Path)
    arguments = parser.parse_args()
    first = int(CALM_DAYS * 86_400 / PERIOD_S)
    last = first + int((FAULT_HOURS * 3600 + GRACE_S) / PERIOD_S)
    found: dict[str, int] = dict.fromkeys(DETECTORS, 0)
    false: dict[str, int] = dict.fromkeys(DETECTORS, 0)
    faults = device_s = 0.0
    for run in drill_runs(arguments.traces):
        faults += 1
        others = [d for d in range(run.devices) if d != run.device][:2]
        device_s += len(others) * (len(run.columns["temp_c"]) - first) * PERIOD_S
        for name, detector in DETECTORS.items():
            told = alarms(detector(device_rows(run.columns, run.device), first), first)
            found[name] += any(first <= t <= last for t in told)
            false[name] += sum(len(alarms(detector(device_rows(run.columns, d), first), first)) for d in others)
    months = device_s / (30 * 86_400)
    for name in DETECTORS:
        rate = round(false[name] / months, 1)
        print(
            json.dumps({"name": name, "value": round(found[name] / faults, 3), "unit": "recall", "false_a_month": rate})
        )


if __name__ == "__main__":
    main()

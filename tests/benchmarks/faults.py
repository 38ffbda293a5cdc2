"""A drill of faults in simulated devices under real load: who finds what, how soon, and how often for nothing.

python -m tests.benchmarks.faults [--short] [--traces FILE] [--table FILE]. FILE is a CSV (gzipped) with t_s, gpu,
gpu_util_pct, gpu_mem_mib, one row a minute and GPU; without it the load is made up. Clean nodes run for weeks beside.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from accelerator_autopilot.anomaly.domain.detection_engine import DetectionEngine
from accelerator_autopilot.anomaly.domain.metric_columns import COLUMN, COLUMNS
from accelerator_autopilot.anomaly.domain.replay import Moment, ReplayedAlert, rerun
from tests.benchmarks.drill_runs import CALM_DAYS, DEVICES, GRACE_S, PERIOD_S, drill_runs, load_of
from tests.support.drill import Columns, Node, all_faults

MONTH_S = 30 * 86_400.0


def ticks_of(columns: Columns) -> Iterator[Moment]:
    """The node's rows; infinity stands for rows that never come."""
    names = list(columns)
    block = np.stack([columns[name] for name in names], 2)
    index = [COLUMN[name] for name in names]
    for t in range(len(block)):
        here = np.flatnonzero(~np.isinf(block[t]).any(axis=1))
        values = np.full((len(here), len(COLUMNS)), np.nan, np.float32)
        values[:, index] = block[t, here]
        yield Moment(t * PERIOD_S, tuple(f"gpu-{i}" for i in here), values)


def fixed_thresholds(columns: Columns) -> list[tuple[str, float]]:
    """The usual alert rules over a dcgm-exporter: each device and second at which one fires anew."""
    gone = np.isinf(columns["temp_c"])
    told: list[tuple[str, float]] = []
    with np.errstate(invalid="ignore"):
        rules = [
            columns["temp_c"] > 85,
            columns["temp_mem_c"] > 100,
            np.diff(columns["ecc_dbe"], axis=0, prepend=columns["ecc_dbe"][:1]) > 0,
            np.diff(columns["ecc_sbe"], axis=0, prepend=columns["ecc_sbe"][:1]) > 10,
            columns["row_remap_failure"] > 0,
            columns["row_remap_pending"] > 0,
            np.diff(columns["pcie_replays"], axis=0, prepend=columns["pcie_replays"][:1]) > 10,
            np.diff(columns["nvlink_replay_errors"], axis=0, prepend=columns["nvlink_replay_errors"][:1]) > 10,
            columns["power_w"] > 1.05 * columns["power_cap_w"],
            columns["memory_used_bytes"] > 0.97 * columns["memory_total_bytes"],
            gone,
        ]
    for firing in rules:
        rising = firing & ~np.vstack([np.zeros((1, firing.shape[1]), bool), firing[:-1]])
        told += [(f"gpu-{d}", t * PERIOD_S) for t, d in zip(*np.nonzero(rising), strict=True)]
    return told


def ours(columns: Columns) -> list[ReplayedAlert]:
    """The product's own."""
    return rerun(DetectionEngine(), "node", ticks_of(columns), PERIOD_S)


def main() -> None:
    """Run the drill."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--traces", type=Path)
    parser.add_argument("--table", type=Path, help="write the table as Markdown")
    arguments = parser.parse_args()
    calm_days, weeks, every = (0.25, 0.1, 6) if arguments.short else (CALM_DAYS, 4.0, 1)
    began = time.perf_counter()
    found: dict[str, list[float | None]] = defaultdict(list)
    fixed: dict[str, list[float | None]] = defaultdict(list)
    seen_kinds: dict[str, set[str]] = defaultdict(set)
    false_ours: list[ReplayedAlert] = []
    false_fixed = 0
    device_s = 0.0
    for run in drill_runs(arguments.traces, calm_days, every):
        start_s, end_s, name = run.first * PERIOD_S, run.last * PERIOD_S + GRACE_S, f"gpu-{run.device}"
        alerts = ours(run.columns)
        hits = [a for a in alerts if a.alert.device == name and start_s <= a.opened_s <= end_s]
        found[run.fault.name].append(min(a.opened_s for a in hits) - start_s if hits else None)
        seen_kinds[run.fault.name] |= {a.alert.kind for a in hits}
        false_ours += [a for a in alerts if a not in hits and a.alert.device != "node"]
        rules = fixed_thresholds(run.columns)
        told = [s for d, s in rules if d == name and start_s <= s <= end_s]
        fixed[run.fault.name].append(min(told) - start_s if told else None)
        false_fixed += len(rules) - len(told)
        device_s += ((run.devices - 1) * run.ticks + run.first) * PERIOD_S
    rng = np.random.default_rng(1_000)
    clean = Node(rng, load_of(arguments.traces, rng, int(weeks * 7 * 86_400 / PERIOD_S)), PERIOD_S).run()
    false_ours += ours(clean)
    false_fixed += len(fixed_thresholds(clean))
    device_s += DEVICES * weeks * 7 * 86_400
    months = device_s / MONTH_S
    table = render(found, fixed, seen_kinds)
    if arguments.table:
        arguments.table.write_text(table, encoding="utf-8")
    print(table)
    for told in false_ours:
        print("false:", told.alert.device, told.alert.kind, round(told.opened_s / 3600, 1), "h", told.alert.summary)
    times = [s for values in found.values() for s in values]
    recall = sum(s is not None for s in times) / len(times)
    baseline = sum(s is not None for values in fixed.values() for s in values) / len(times)
    print(
        json.dumps(
            {
                "name": "faults",
                "value": round(recall, 3),
                "unit": "recall",
                "baseline": round(baseline, 3),
                "ratio": round(recall / max(baseline, 1e-9), 2),
                "kinds": len({f.kind for f in all_faults()}),
                "false_alerts_per_device_month": round(len(false_ours) / months, 3),
                "false_alerts_of_fixed_thresholds": round(false_fixed / months, 3),
                "device_months": round(months, 1),
                "seconds": round(time.perf_counter() - began, 1),
            }
        )
    )


def render(
    found: dict[str, list[float | None]], fixed: dict[str, list[float | None]], kinds: dict[str, set[str]]
) -> str:
    """The table."""

    def cell(values: list[float | None]) -> str:
        hits = [v for v in values if v is not None]
        return f"{np.median(hits) / 60:.0f} min" if hits else "missed"

    lines = ["| fault | found after | fixed thresholds | alerts |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {name} | {cell(values)} | {cell(fixed[name])} | {', '.join(sorted(kinds[name]))} |"
        for name, values in found.items()
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

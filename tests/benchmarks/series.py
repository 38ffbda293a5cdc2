"""The learned detector over labelled series, streamed row by row.

DIR holds manifest.csv (series_id, corpus, file, rows, dims, train_rows) and the series' files. For each series
`<series_id>.csv` is written with one `anomaly_score` from 0 to 1 a row: above one half where an alarm is raised, by
its strength; below it the row's oddness, for ranking. One setting for all; no row is seen before its turn.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import polars as pl

from accelerator_autopilot.anomaly.domain.last_values import Floats
from accelerator_autopilot.anomaly.domain.learned.alarm_throttle import AlarmThrottle
from accelerator_autopilot.anomaly.domain.learned.score_fusion import ScoreFusion

STRONGEST = 20.0


def read_values(path: Path) -> Floats:
    """All metrics of a file, [rows, metrics]; empty cells are NaN."""
    table = pl.read_csv(path, infer_schema_length=None)
    names = [name for name in table.columns if name != "timestamp"]
    return table.select(pl.col(names).cast(pl.Float64, strict=False)).to_numpy().astype(np.float32)


def stream(series: list[Floats]) -> list[Floats]:
    """Scores of series that have the same number of metrics, one row of each at a time."""
    metrics = series[0].shape[1]
    detector, alarms = ScoreFusion(metrics), AlarmThrottle()
    detector.grow(len(series))
    alarms.grow(len(series))
    scores = [np.zeros(len(values), np.float32) for values in series]
    for row in range(max(map(len, series))):
        here = [i for i, values in enumerate(series) if row < len(values)]
        slots = np.array(here)
        x = np.stack([series[i][row] for i in here])
        found = detector.step(slots, x, np.ones(len(here), bool))
        strength = alarms.step(slots, found.surprise)
        low = 0.5 * found.anomaly_score / (1 + found.anomaly_score)
        score = np.where(strength > 0, 0.5 + 0.5 * np.minimum(strength / STRONGEST, 1), low)
        for i, value in zip(here, score.tolist(), strict=True):
            scores[i][row] = value
    return scores


def main() -> None:
    """Score every series of a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--corpus", help="only this one")
    arguments = parser.parse_args()
    groups: dict[tuple[str, int], list[tuple[str, Path]]] = defaultdict(list)
    with (arguments.data / "manifest.csv").open() as manifest:
        for row in csv.DictReader(manifest):
            if arguments.corpus in {None, row["corpus"]}:
                groups[row["corpus"], int(row["dims"])].append((row["series_id"], arguments.data / row["file"]))
    began, points = time.perf_counter(), 0
    for members in groups.values():
        series = [read_values(path) for _, path in members]
        for (name, _), scores in zip(members, stream(series), strict=True):
            target = arguments.out / f"{name}.csv"
            target.parent.mkdir(parents=True, exist_ok=True)
            np.savetxt(target, scores, fmt="%.7f", header="anomaly_score", comments="")
        points += sum(values.size for values in series)
    elapsed = time.perf_counter() - began
    count = sum(map(len, groups.values()))
    print(json.dumps({"name": "series", "value": round(points / elapsed), "unit": "points/s", "series": count}))


if __name__ == "__main__":
    main()

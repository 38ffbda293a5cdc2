"""Forecasts of arrivals beside naive, means, Holt and the day before: weighted absolute error in percent.

    python -m tests.benchmarks.forecast [--short] [--series FILE.csv[.gz] --column NAME --period-s P]

Series are generated unless one is given; the first 30 % of each is for getting used to it, the rest is scored.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from accelerator_autopilot.scheduler.domain.pool_arrays import Doubles
from accelerator_autopilot.scheduler.policies.forecasting import Forecaster
from accelerator_autopilot.scheduler.twin.workloads import random_arrivals, random_shape

HORIZONS = (1, 5)
LEARN_SHARE = 0.3


def rolling(values: Doubles, of: Callable[[Doubles], float], least: int = 1) -> Doubles:
    """A forecaster's answer after each value."""
    return np.array([of(values[: i + 1]) if i + 1 >= least else values[i] for i in range(len(values))])


def baselines(values: Doubles, season: int, horizon: int) -> dict[str, Doubles]:
    found = {
        "naive": values,
        "mean_5": rolling(values, lambda v: float(v[-5:].mean())),
        "mean_10": rolling(values, lambda v: float(v[-10:].mean())),
        "holt": holt(values, horizon),
    }
    if season:
        found["seasonal"] = rolling(values, lambda v: float(v[len(v) - 1 - season + horizon]), least=season + 1)
    return found


def holt(values: Doubles, horizon: int, alpha: float = 0.3, beta: float = 0.05) -> Doubles:
    level, trend, told = values[0], 0.0, []
    for value in values:
        before = level
        level = alpha * value + (1 - alpha) * (level + trend)
        trend = beta * (level - before) + (1 - beta) * trend
        told.append(max(0.0, level + horizon * trend))
    return np.array(told)


def wape(told: Doubles, values: Doubles, horizon: int) -> float:
    first = int(LEARN_SHARE * len(values))
    actual, said = values[first + horizon :], told[first:-horizon]
    return 100 * float(np.abs(actual - said).sum() / max(actual.sum(), 1e-9))


def score(values: Doubles, season: int) -> dict[str, float]:
    """By horizon: ours, the best baseline, how many values lay in the interval of eight in ten."""
    forecaster = Forecaster(1, HORIZONS, season)
    said = [forecaster.observe(values[i : i + 1]) for i in range(len(values))]
    told: dict[str, float] = {}
    first = int(LEARN_SHARE * len(values))
    for index, horizon in enumerate(HORIZONS):
        ours = wape(np.array([s.mean[0, index] for s in said]), values, horizon)
        others = {name: wape(b, values, horizon) for name, b in baselines(values, season, horizon).items()}
        actual = values[first + horizon :]
        low = np.array([s.low[0, index] for s in said])[first:-horizon]
        high = np.array([s.high[0, index] for s in said])[first:-horizon]
        told |= {
            f"ours_{horizon}": round(ours, 1),
            f"best_{horizon}": round(min(others.values()), 1),
            f"inside_{horizon}": round(float(((low <= actual) & (actual <= high)).mean()), 3),
        }
    return told


def generated(count: int) -> dict[str, tuple[Doubles, int]]:
    random, made = np.random.default_rng(8), {}
    for number in range(count):
        arrivals = random_arrivals(random, random_shape(random, 0.5), 8 * 3600.0)
        made[f"generated_{number}"] = np.bincount((arrivals // 60).astype(int), minlength=480).astype(float), 0
    return made


def read(path: Path, column: str, period_s: float) -> tuple[Doubles, int]:
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        values = np.array([float(r[column]) for r in csv.DictReader(file)])
    if column.startswith("arrival"):
        values = np.bincount((values // period_s).astype(int)).astype(float)
    season = round(86_400 / period_s)
    return values, season if len(values) > 2 * season else 0


def main() -> None:
    ask = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    ask.add_argument("--short", action="store_true")
    ask.add_argument("--series", type=Path)
    ask.add_argument("--column", default="arrival_s")
    ask.add_argument("--period-s", type=float, default=60.0)
    a = ask.parse_args()
    series = {a.series.name: read(a.series, a.column, a.period_s)} if a.series else generated(2 if a.short else 12)
    table = {name: score(values, season) for name, (values, season) in series.items()}
    for name, row in table.items():
        print(f"{name:20s} {row}")
    value = float(np.mean([row["ours_1"] for row in table.values()]))
    baseline = float(np.mean([row["best_1"] for row in table.values()]))
    print(
        json.dumps(
            {
                "name": "forecast", "value": round(value, 1), "unit": "% WAPE, one period ahead",
                "baseline": round(baseline, 1), "ratio": round(value / baseline, 3), "series": table,
            }
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()

"""Published sweeps of power caps: how long training takes, and what a GPU draws, at each cap.

Medians over batch sizes and optimisers of training on one GPU, from the traces of the Zeus project (ml-energy/zeus,
examples/research_reproducibility/zeus_nsdi23, Apache-2.0; You, Chung and Chowdhury, NSDI 2023).
"""

from __future__ import annotations

import csv
from functools import cache
from importlib import resources
from typing import NamedTuple


class PowerSweep(NamedTuple):
    """Caps in watts, ascending, with the time relative to the highest cap and the mean power at each."""

    cap_w: tuple[float, ...]
    relative_time: tuple[float, ...]
    power_w: tuple[float, ...]


@cache
def published_sweeps() -> dict[tuple[str, str], PowerSweep]:
    """Return the sweeps by GPU and network, both in lower case."""
    found: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    path = resources.files("accelerator_autopilot.contracts") / "data" / "power_curves.csv"
    with path.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            point = (float(row["power_limit_w"]), float(row["relative_time"]), float(row["average_power_w"]))
            found.setdefault((row["gpu"], row["network"]), []).append(point)
    return {key: PowerSweep(*zip(*sorted(points), strict=True)) for key, points in found.items()}

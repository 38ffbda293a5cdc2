"""The runs of the fault drill: a node of devices under real or made-up load, calm for days, then one fault."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from tests.support.drill import MEMORY_BYTES, Columns, Fault, Load, all_faults, made_up_load, with_fault

DEVICES, PERIOD_S = 8, 60.0
CALM_DAYS, FAULT_HOURS = 2.0, 6.0
GRACE_S = 600.0


@dataclass(frozen=True)
class Run:
    """One node's metrics [ticks, devices], and the fault in one of its devices from tick `first` to `last`."""

    fault: Fault
    columns: Columns
    device: int
    first: int
    last: int

    @property
    def devices(self) -> int:
        """How many devices the node has."""
        return int(self.columns["temp_c"].shape[1])

    @property
    def ticks(self) -> int:
        """How many ticks it ran."""
        return len(self.columns["temp_c"])


def real_load(path: Path, rng: np.random.Generator, ticks: int, devices: int) -> Load:
    """Days of real GPUs, one after the other in random order."""
    rows = pl.read_csv(path).sort("gpu", "t_s").partition_by("gpu", maintain_order=True)
    days = [(r["gpu_util_pct"].to_numpy(), r["gpu_mem_mib"].to_numpy() * 2.0**20) for r in rows if len(r) > 600]
    util, memory = np.zeros((ticks, devices)), np.zeros((ticks, devices))
    for device in range(devices):
        at = 0
        while at < ticks:
            u, m = days[rng.integers(len(days))]
            length = min(len(u), ticks - at)
            util[at : at + length, device] = np.nan_to_num(u[:length])
            memory[at : at + length, device] = np.minimum(np.nan_to_num(m[:length]), 0.98 * MEMORY_BYTES)
            at += length
    return Load(util, memory)


def load_of(traces: Path | None, rng: np.random.Generator, ticks: int) -> Load:
    """Load of a node: of real GPUs where there are traces, else made up."""
    return real_load(traces, rng, ticks, DEVICES) if traces else made_up_load(rng, ticks, DEVICES, PERIOD_S)


def drill_runs(traces: Path | None, calm_days: float = CALM_DAYS, every: int = 1) -> Iterator[Run]:
    """Every fault, each with a seed of its own, in the device that is busiest then: on an idle one it shows nowhere."""
    first, length = int(calm_days * 86_400 / PERIOD_S), int(FAULT_HOURS * 3600 / PERIOD_S)
    for number, fault in enumerate(list(all_faults())[::every]):
        rng = np.random.default_rng(number)
        load = load_of(traces, rng, first + length + 60)
        device = int(load.util_pct[first : first + length].mean(axis=0).argmax())
        columns = with_fault(rng, load, PERIOD_S, fault, device, first, first + length)
        yield Run(fault, columns, device, first, first + length)

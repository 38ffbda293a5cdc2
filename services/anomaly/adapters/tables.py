"""Anybody's telemetry as batches: CSV (also gzipped) or Parquet with `t_s`, `device` and metrics of the catalogue."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from polars.exceptions import PolarsError

from services.anomaly.domain.columns import COLUMNS
from services.anomaly.domain.history import Doubles, Floats
from services.anomaly.domain.rerun import Moment
from shared.errors import InvalidInputError

TIME, DEVICE = "t_s", "device"


@dataclass(frozen=True)
class Table:
    """A file's rows in order of time; of two rows of one device and time the later one counts."""

    at_s: Doubles
    devices: list[str]
    values: Floats
    node: str
    period_s: float

    @property
    def metrics(self) -> list[str]:
        """Metrics of which there is any value."""
        return [name for i, name in enumerate(COLUMNS) if not np.isnan(self.values[:, i]).all()]

    def ticks(self) -> Iterator[Moment]:
        """One moment after the other."""
        starts = np.flatnonzero(np.r_[True, np.diff(self.at_s) > 0]) if len(self.at_s) else np.empty(0, np.int64)
        for first, last in zip(starts, [*starts[1:], len(self.at_s)], strict=True):
            yield Moment(float(self.at_s[first]), tuple(self.devices[first:last]), self.values[first:last])


def read_table(path: Path) -> Table:
    """Read a file. Raises InvalidInputError that names the file or the column."""
    try:
        frame = pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_csv(path, infer_schema_length=None)
    except (OSError, PolarsError, ValueError) as error:
        raise InvalidInputError("input", str(path), f"cannot be read: {error}") from error
    for column in (TIME, DEVICE):
        if column not in frame.columns:
            raise InvalidInputError("input", str(path), f"has no column {column!r}; it has {', '.join(frame.columns)}")
    metrics = [name for name in COLUMNS if name in frame.columns]
    if not metrics:
        raise InvalidInputError("input", str(path), "has no metric of the catalogue; see docs/metrics.md")
    numbers = [pl.col(name).cast(pl.Float64, strict=False) for name in (TIME, *metrics)]
    frame = frame.select(*numbers, pl.col(DEVICE).cast(pl.String)).drop_nulls([TIME, DEVICE])
    frame = frame.filter(pl.col(TIME).is_finite())
    frame = frame.unique([TIME, DEVICE], keep="last", maintain_order=True).sort(TIME, maintain_order=True)
    values = np.full((len(frame), len(COLUMNS)), np.nan, np.float32)
    for name in metrics:
        values[:, COLUMNS.index(name)] = frame[name].fill_null(np.nan).to_numpy()
    values[~np.isfinite(values)] = np.nan
    steps = frame.select(pl.col(TIME).diff().over(DEVICE).alias("step")).drop_nulls()["step"]
    median = steps.median() if len(steps) else None
    period_s = float(median) if isinstance(median, int | float) and median > 0 else 1.0
    return Table(frame[TIME].to_numpy(), frame[DEVICE].to_list(), values, path.name, period_s)

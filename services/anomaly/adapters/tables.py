"""Anybody's telemetry as moments: our own names, nvidia-smi's CSV, DCGM's fields, in any dialect or file form."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from services.anomaly.adapters.table_columns import DEVICES, NODES, TIMES, metric_of, numbers, unreadable
from services.anomaly.adapters.table_files import read_frame
from services.anomaly.adapters.table_times import seconds
from services.anomaly.domain.columns import COLUMN, COLUMNS
from services.anomaly.domain.history import Doubles, Floats
from services.anomaly.domain.rerun import Moment
from shared.errors import InvalidInputError

_KNOWN_ASIDE = {"name", "gpu_name", "model", "modelname", "driver_version", "serial", "pci_bus_id", "vbios_version"}


@dataclass(frozen=True)
class Table:
    """A file's rows in order of time; of two rows of one device and time the later one counts.

    `remarks` say what of the file was not understood.
    """

    at_s: Doubles
    devices: list[str]
    values: Floats
    node: str
    period_s: float
    remarks: list[str] = field(default_factory=list)

    @property
    def metrics(self) -> list[str]:
        """Metrics of which there is any value."""
        return [name for i, name in enumerate(COLUMNS) if not np.isnan(self.values[:, i]).all()]

    @property
    def starts(self) -> list[int]:
        """Where each moment's rows begin."""
        return np.flatnonzero(np.r_[True, np.diff(self.at_s) > 0]).tolist() if len(self.at_s) else []

    def ticks(self) -> Iterator[Moment]:
        """One moment after the other."""
        starts = self.starts
        for first, last in zip(starts, [*starts[1:], len(self.at_s)], strict=True):
            yield Moment(float(self.at_s[first]), tuple(self.devices[first:last]), self.values[first:last])


def read_table(path: Path) -> Table:
    """Read a file. Raises InvalidInputError that names the file and what is missing in it."""
    frame = read_frame(path)
    names = {name.strip().lower(): name for name in frame.columns}
    at_column = next((names[name] for name in TIMES if name in names), None)
    if at_column is None:
        raise InvalidInputError("input", str(path), f"has no column of times ({', '.join(TIMES)}); {_has(frame)}")
    at_s = seconds(frame[at_column])
    if at_s.null_count() == len(at_s):
        raise InvalidInputError("input", str(path), f"no row has a time that can be read in column {at_column!r}")
    device, device_columns = _devices(frame, names, at_s, path)
    remarks: list[str] = []
    if dropped := int((at_s.is_null() | device.is_null()).sum()):
        remarks.append(f"{dropped} rows without time or device were left out")
    found = _metrics(frame, {at_column, *device_columns}, remarks)
    if not found:
        raise InvalidInputError(
            "input", str(path), f"has no metric of the catalogue (docs/metrics.md) with a value; {'; '.join(remarks)}"
        )
    rows = pl.DataFrame({"at_s": at_s, "device": device, "row": pl.int_range(len(at_s), eager=True)})
    rows = rows.drop_nulls().filter(pl.col("at_s").is_finite())
    rows = rows.unique(["at_s", "device"], keep="last", maintain_order=True).sort("at_s", maintain_order=True)
    order = rows["row"].to_numpy()
    values = np.full((len(rows), len(COLUMNS)), np.nan, np.float32)
    for name, column in found.items():
        values[:, COLUMN[name]] = column.fill_null(np.nan).to_numpy()[order]
    values[~np.isfinite(values)] = np.nan
    steps = rows.select(pl.col("at_s").diff().over("device").alias("step")).drop_nulls()["step"]
    median = steps.median() if len(steps) else None
    period_s = float(median) if isinstance(median, int | float) and median > 0 else 1.0
    return Table(rows["at_s"].to_numpy(), rows["device"].to_list(), values, path.name, period_s, remarks)


def _devices(frame: pl.DataFrame, names: dict[str, str], at_s: pl.Series, path: Path) -> tuple[pl.Series, list[str]]:
    """Each row's device, with its node before it where there are several, and the columns that say so."""
    column = next((names[name] for name in DEVICES if name in names), None)
    if column is None:
        if at_s.drop_nulls().is_duplicated().any():
            raise InvalidInputError(
                "input", str(path), f"has no column of devices ({', '.join(DEVICES)}); {_has(frame)}"
            )
        return pl.Series("device", ["gpu-0"] * len(frame)), []
    device = _as_text(frame[column])
    node_column = next((names[name] for name in NODES if name in names), None)
    aside = [names[name] for name in (*DEVICES, *NODES) if name in names]
    if node_column is not None and frame[node_column].n_unique() > 1:
        device = _as_text(frame[node_column]) + "/" + device
    return device, aside


def _as_text(column: pl.Series) -> pl.Series:
    """Names; a number that was read as 0.0 is 0."""
    if column.dtype.is_float():
        whole = column.cast(pl.Int64, strict=False)
        if (whole.cast(pl.Float64) == column).all():
            column = whole
    return column.cast(pl.String).str.strip_chars()


def _metrics(frame: pl.DataFrame, aside: set[str], remarks: list[str]) -> dict[str, pl.Series]:
    """Columns of numbers by our names; what is not understood is added to the remarks."""
    found: dict[str, pl.Series] = {}
    unknown = []
    for header in frame.columns:
        if header in aside or header.strip().lower() in _KNOWN_ASIDE:
            continue
        known = metric_of(header)
        if known is None:
            unknown.append(header)
            continue
        metric, factor = known
        if metric.name not in COLUMN:
            continue
        values = numbers(frame[header], metric, factor)
        if bad := unreadable(frame[header], values):
            remarks.append(f"column {header!r}: {bad} of {len(values)} cells are no number")
        if values.null_count() < len(values):
            # Of two columns for one metric the later fills what the earlier leaves open.
            found[metric.name] = found[metric.name].fill_null(values) if metric.name in found else values
    if unknown:
        remarks.append(f"columns that are not known: {', '.join(unknown)}")
    return found


def _has(frame: pl.DataFrame) -> str:
    return f"it has {', '.join(frame.columns)}"

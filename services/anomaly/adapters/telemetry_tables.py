"""Read telemetry tables of any origin as moments: our own names, nvidia-smi's CSV, DCGM's fields."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from accelerator_autopilot.anomaly.adapters.column_names import DEVICES, NODES, TIMES, metric_of, numbers, unreadable
from accelerator_autopilot.anomaly.adapters.table_files import read_frame
from accelerator_autopilot.anomaly.adapters.timestamps import each_once, seconds
from accelerator_autopilot.anomaly.domain.last_values import Doubles, Floats, Slots
from accelerator_autopilot.anomaly.domain.metric_columns import COLUMN, COLUMNS
from accelerator_autopilot.anomaly.domain.replay import Moment
from accelerator_autopilot.anomaly.domain.row_blocks import Block
from accelerator_autopilot.contracts.errors import InvalidInputError

BLOCK_ROWS = 32_768
PERIOD_ROWS = 1_000_000
MOMENT_SHARE = 0.3  # share of the period: readings within it belong to one moment
_IGNORED_COLUMNS = {"name", "gpu_name", "model", "modelname", "driver_version", "serial", "pci_bus_id", "vbios_version"}


@dataclass(frozen=True)
class Table:
    """A file's rows in order of time; of two rows of one device and time the later one wins.

    Row i belongs to device `names[codes[i]]` and has the values `packed[i]` of the metrics `metrics`. `remarks`
    list what was not understood.
    """

    at_s: Doubles
    names: list[str]
    codes: npt.NDArray[np.int32]
    metrics: list[str]
    packed: Floats
    node: str
    period_s: float
    remarks: list[str] = field(default_factory=list)

    @property
    def devices(self) -> list[str]:
        """The device of each row."""
        return [self.names[code] for code in self.codes]

    @property
    def values(self) -> Floats:
        """The values of each row, [rows, COLUMNS]."""
        return self._spread(slice(None))

    @cached_property
    def starts(self) -> Slots:
        """Return where each moment's rows start: devices that are read shortly after one another share a moment."""
        if not len(self.at_s):
            return np.empty(0, np.int64)
        steps = np.diff(self.at_s)
        begins = np.r_[True, steps > MOMENT_SHARE * self.period_s]
        rows = np.sort(np.cumsum(begins) * len(self.names) + self.codes, kind="stable")
        twice = bool((np.diff(rows) == 0).any())
        return np.flatnonzero(np.r_[True, steps > 0] if twice else begins)

    def ticks(self) -> Iterator[Moment]:
        """Yield the moments in order."""
        for first, last in pairwise([*self.starts.tolist(), len(self.at_s)]):
            rows = slice(first, last)
            devices = tuple(self.names[code] for code in self.codes[rows])
            yield Moment(float(self.at_s[first]), devices, self._spread(rows))

    def blocks(self, slots: Slots, rows: int = BLOCK_ROWS) -> Iterator[Block]:
        """Yield blocks of many moments, of about this many rows; `slots` are those of `names`."""
        bounds = np.r_[self.starts, len(self.at_s)]
        first = 0
        while first < len(self.starts):
            # This many rows, and at least one moment.
            last = max(first + 1, int(np.searchsorted(bounds, bounds[first] + rows, side="right")) - 1)
            here = slice(int(bounds[first]), int(bounds[last]))
            moment = np.repeat(np.arange(last - first), np.diff(bounds[first : last + 1]))
            moment_s = self.at_s[bounds[first:last]]
            yield Block(slots[self.codes[here]], self.at_s[here], self.packed[here], self._columns, moment, moment_s)
            first = last

    def _spread(self, rows: slice) -> Floats:
        values = np.full((len(self.packed[rows]), len(COLUMNS)), np.nan, np.float32)
        values[:, self._columns] = self.packed[rows]
        return values

    @property
    def _columns(self) -> Slots:
        return np.array([COLUMN[name] for name in self.metrics], np.int64)


def read_table(path: Path) -> Table:
    """Read a file. Raises InvalidInputError that names the file and what is missing."""
    frame = read_frame(path)
    names = {name.strip().lower(): name for name in frame.columns}
    at_column = next((names[name] for name in TIMES if name in names), _only_time(frame))
    if at_column is None:
        raise InvalidInputError("input", str(path), f"has no time column (one of {', '.join(TIMES)}); {_has(frame)}")
    at_s = seconds(frame[at_column])
    if at_s.null_count() == len(at_s):
        raise InvalidInputError("input", str(path), f"no row has a readable time in column {at_column!r}")
    device, device_columns = _devices(frame, names, at_s, path)
    remarks: list[str] = []
    if dropped := int((at_s.is_null() | device.is_null()).sum()):
        remarks.append(f"{dropped} rows without time or device were left out")
    found = _metrics(frame, {at_column, *device_columns}, remarks)
    metrics = [name for name in COLUMNS if name in found]
    found = {name: found[name] for name in metrics}
    if not found:
        raise InvalidInputError(
            "input",
            str(path),
            f"has no values of a known metric (docs/reference/metrics.md); {'; '.join(remarks)}",
        )
    del frame
    devices = device.unique().drop_nulls().sort()
    codes = device.cast(pl.Enum(devices)).to_physical().cast(pl.Int32)
    rows = pl.DataFrame({"at_s": at_s, "device": codes, "row": pl.int_range(len(at_s), dtype=pl.UInt32, eager=True)})
    rows = rows.drop_nulls().filter(pl.col("at_s").is_finite())
    if not _in_order(rows):
        rows = rows.sort("at_s", "device", "row")
    # Of two rows of one device and time the later one wins.
    again = (pl.col("at_s") == pl.col("at_s").shift(-1)) & (pl.col("device") == pl.col("device").shift(-1))
    rows = rows.filter(~again.fill_null(value=False))
    order = rows["row"].to_numpy()
    # Each metric's values are contiguous, since they are processed metric by metric.
    packed = np.empty((len(found), len(rows)), np.float32).T
    for place, metric in enumerate(list(found)):
        values = found.pop(metric)[order]
        packed[:, place] = np.where(np.isfinite(values), values, np.nan)
    return Table(
        rows["at_s"].to_numpy(), devices.to_list(), rows["device"].to_numpy(), metrics, packed, path.name,
        _period_s(rows), remarks,
    )  # fmt: skip


def _in_order(rows: pl.DataFrame) -> bool:
    """Whether rows are in order of time and device already, as most tools write them."""
    at_s, device = rows["at_s"].to_numpy(), rows["device"].to_numpy()
    steps = np.diff(at_s)
    return bool(((steps > 0) | ((steps == 0) & (np.diff(device) >= 0))).all())


def _period_s(rows: pl.DataFrame) -> float:
    """Return the median time between rows of a device."""
    steps = rows.head(PERIOD_ROWS).select(pl.col("at_s").diff().over("device").alias("step")).drop_nulls()["step"]
    median = steps.median() if len(steps) else None
    return float(median) if isinstance(median, int | float) and median > 0 else 1.0


def _only_time(frame: pl.DataFrame) -> str | None:
    """Return the only column with a time type, whatever its name."""
    found = [name for name, kind in frame.schema.items() if isinstance(kind, pl.Datetime) or kind == pl.Date]
    return found[0] if len(found) == 1 else None


def _devices(frame: pl.DataFrame, names: dict[str, str], at_s: pl.Series, path: Path) -> tuple[pl.Series, list[str]]:
    """Return each row's device, prefixed by its node where there are several, and the columns used."""
    column = next((names[name] for name in DEVICES if name in names), None)
    if column is None:
        if at_s.drop_nulls().is_duplicated().any():
            raise InvalidInputError(
                "input", str(path), f"has no device column (one of {', '.join(DEVICES)}); {_has(frame)}"
            )
        return pl.repeat("gpu-0", len(frame), eager=True).alias("device"), []
    device = _as_text(frame[column])
    node_column = next((names[name] for name in NODES if name in names), None)
    aside = [names[name] for name in (*DEVICES, *NODES) if name in names]
    if node_column is not None and frame[node_column].n_unique() > 1:
        device = _as_text(frame[node_column]) + "/" + device
    return device, aside


def _as_text(column: pl.Series) -> pl.Series:
    """Convert names to text; a number that was read as 0.0 becomes 0."""
    if column.dtype.is_float():
        whole = column.cast(pl.Int64, strict=False)
        if (whole.cast(pl.Float64) == column).all():
            column = whole
    if column.dtype == pl.Binary:
        column = column.cast(pl.String, strict=False)
    return each_once(column, lambda cells: cells.str.strip_chars())


def _metrics(frame: pl.DataFrame, aside: set[str], remarks: list[str]) -> dict[str, Floats]:
    """Return columns of numbers under our names; what is not understood is added to the remarks."""
    found: dict[str, Floats] = {}
    unknown = []
    for header in frame.columns:
        if header in aside or header.strip().lower() in _IGNORED_COLUMNS:
            continue
        understood = metric_of(header)
        if understood is None:
            unknown.append(header)
            continue
        metric, factor = understood
        if metric.name not in COLUMN:
            continue
        values = numbers(frame[header], metric, factor)
        if bad := unreadable(frame[header], values):
            remarks.append(f"column {header!r}: {bad} of {len(values)} cells are not numbers")
        if values.null_count() < len(values):
            column = values.cast(pl.Float32).fill_null(float("nan")).to_numpy()
            # Of two columns for one metric, the later fills the gaps of the earlier.
            known = found.get(metric.name)
            found[metric.name] = column if known is None else np.where(np.isnan(known), column, known)
    if unknown:
        remarks.append(f"unknown columns: {', '.join(unknown)}")
    return found


def _has(frame: pl.DataFrame) -> str:
    return f"it has {', '.join(frame.columns)}"

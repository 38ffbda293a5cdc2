"""Parse times in any common format, as seconds since 1970 UTC."""

from __future__ import annotations

import re
from collections.abc import Callable

import polars as pl

# Epochs of the years 1973 to 5138 by their magnitude; smaller numbers are seconds since the file's start.
_MILLIS, _MICROS, _NANOS = 1e11, 1e14, 1e17
_STAMP = (
    r"^(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})[T ]+(\d{1,2}):(\d{2})(?::(\d{2}(?:[.,]\d+)?))?\s*(Z|UTC|[-+]\d{2}:?\d{2})?$"
)

# The full format with seconds, as most tools write it.
_USUAL = re.compile(r"\d{4}([-/])\d{2}\1\d{2}([T ])\d{2}:\d{2}:\d{2}(?:\.\d+)?(Z| ?UTC|[-+]\d{2}:?\d{2})?")


def seconds(column: pl.Series) -> pl.Series:
    """Return Float64 seconds; null where a cell is not a time. A time without a zone is UTC."""
    if isinstance(column.dtype, pl.Datetime) or column.dtype == pl.Date:
        return column.dt.epoch("us").cast(pl.Float64) / 1e6
    if column.dtype.is_numeric():
        return _epoch(column.cast(pl.Float64))
    return each_once(column, _from_text)


def _from_text(text: pl.Series) -> pl.Series:
    text = text.str.strip_chars()
    values = text.cast(pl.Float64, strict=False)
    if values.null_count() < len(values):
        return _epoch(values)
    return _stamps(text)


def each_once(column: pl.Series, read: Callable[[pl.Series], pl.Series]) -> pl.Series:
    """Apply `read` to a column of text, once for each distinct cell: rows repeat themselves."""
    kept_once = isinstance(column.dtype, pl.Categorical | pl.Enum)
    text = column if kept_once else column.cast(pl.String, strict=False)
    cells = text.unique().drop_nulls().cast(pl.String)
    if len(cells) * 4 > len(text):
        return read(text.cast(pl.String))
    places = text.cast(pl.Enum(cells)).to_physical()
    return read(cells).gather(places)


def _epoch(values: pl.Series) -> pl.Series:
    largest = values.abs().max()
    size = float(largest) if isinstance(largest, int | float) else 0.0
    for limit, scale in ((_NANOS, 1e9), (_MICROS, 1e6), (_MILLIS, 1e3)):
        if size >= limit:
            return values / scale
    return values


def _stamps(text: pl.Series) -> pl.Series:
    """Parse cells of the first one's format at once, and all others piece by piece, which takes ten times as long."""
    usual = _of_one_form(text)
    others = (usual.is_null() & text.is_not_null()).arg_true()
    return usual.scatter(others, _by_parts(text.gather(others))) if len(others) else usual


def _of_one_form(text: pl.Series) -> pl.Series:
    first = text.drop_nulls().head(1).to_list()
    form = _USUAL.fullmatch(first[0]) if first else None
    if form is None:
        return pl.Series(text.name, [None], dtype=pl.Float64).new_from_index(0, len(text))
    stroke, between, zone = form.groups(default="")
    zone = "%z" if zone[:1] in {"+", "-"} else zone
    parsed = text.str.to_datetime(f"%Y{stroke}%m{stroke}%d{between}%H:%M:%S%.f{zone}", time_unit="us", strict=False)
    return parsed.dt.epoch("us").cast(pl.Float64) / 1e6


def _by_parts(text: pl.Series) -> pl.Series:
    def part(number: int) -> pl.Series:
        return text.str.extract(_STAMP, number)

    whole = [part(n).cast(pl.Int32, strict=False) for n in range(1, 6)]
    year, month, day, hour, minute = whole
    dated = pl.DataFrame({"year": year, "month": month, "day": day})
    days = dated.select(pl.date("year", "month", "day").cast(pl.Int64, strict=False)).to_series()
    second = part(6).str.replace(",", ".", literal=True).cast(pl.Float64, strict=False).fill_null(0.0)
    zone = part(7)
    sign = zone.str.slice(0, 1).replace_strict({"-": -1.0, "+": 1.0}, default=0.0, return_dtype=pl.Float64)
    digits = zone.str.replace_all(r"[^0-9]", "")
    hours = digits.str.slice(0, 2).cast(pl.Float64, strict=False).fill_null(0.0)
    minutes = digits.str.slice(2, 2).cast(pl.Float64, strict=False).fill_null(0.0)
    offset = (sign * (hours * 3600 + minutes * 60)).fill_null(0.0)
    return days * 86_400.0 + hour * 3600.0 + minute * 60.0 + second - offset

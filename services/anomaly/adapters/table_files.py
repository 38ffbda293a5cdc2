"""Files of rows as a frame: CSV of any dialect, Parquet, Arrow and JSON lines, also compressed.

What a file is, its bytes tell; its name is not asked.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
from pathlib import Path

import polars as pl
from polars.exceptions import PolarsError

from shared.errors import InvalidInputError

SAMPLE_ROWS = 1000
SEPARATORS = (",", ";", "\t", "|")
ABSENT = (
    "", "-", "--", "n/a", "na", "nan", "null", "none", "nil", "[n/a]", "[not supported]", "not supported",
    "[unknown error]", "[insufficient permissions]", "[gpu is lost]", "err!", "#n/a", "n.a.",
)  # fmt: skip
# What stands in rows but in no header: numbers, with or without a unit, times and identities.
_VALUE = re.compile(
    r"[-+]?\d+([.,]\d*)?([eE][-+]?\d+)?( ?[A-Za-z%°]{1,3})?|\d{4}[-/]\d\d?[-/]\d\d?.*|GPU-.*|0x.*|\[?N/A\]?"
)
_PLAIN = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?")


def read_frame(path: Path) -> pl.DataFrame:
    """Every column of a file; numbers where all of a column are, else text. Raises InvalidInputError."""
    try:
        with path.open("rb") as file:
            if file.read(4) == b"PAR1":
                return _flat(pl.read_parquet(path))
        data = _unpacked(path)
        if data[:4] == b"PAR1":
            return _flat(pl.read_parquet(io.BytesIO(data)))
        if data[:6] == b"ARROW1":
            return _flat(pl.read_ipc(io.BytesIO(data)))
        if data.lstrip()[:1] == b"{":
            return _flat(pl.read_ndjson(io.BytesIO(data), infer_schema_length=None))
        return _read_csv(data)
    except (OSError, EOFError, lzma.LZMAError, PolarsError, ValueError) as error:
        raise InvalidInputError("input", str(path), f"cannot be read: {error}") from error


def _flat(frame: pl.DataFrame) -> pl.DataFrame:
    """Columns within columns by the names of both, or by their own where no other has it."""
    while nested := [name for name, kind in frame.schema.items() if isinstance(kind, pl.Struct)]:
        taken = {name.lower() for name in frame.columns}
        for name in nested:
            inner = frame[name].struct.unnest()
            frame = frame.drop(name)
            for column in inner.columns:
                own = column if column.lower() not in taken else f"{name}.{column}"
                taken.add(own.lower())
                frame = frame.with_columns(inner[column].alias(own))
    return frame


def _unpacked(path: Path) -> bytes:
    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    elif data[:3] == b"BZh":
        data = bz2.decompress(data)
    elif data[:6] == b"\xfd7zXZ\x00":
        data = lzma.decompress(data)
    return data


def _read_csv(data: bytes) -> pl.DataFrame:
    data = _as_utf8(data)
    # A comment or an empty line before the header is common where a tool wrote its own name first.
    while data[:1] in {b"#", b"\n", b"\r"} and b"\n" in data:
        data = data.partition(b"\n")[2]
    head = data[: data.find(b"\n") if b"\n" in data else len(data)].decode(errors="replace").strip("\r\n")
    if not head.strip():
        raise ValueError("it is empty")
    separator = max(SEPARATORS, key=head.count)
    first = [cell.strip().strip('"') for cell in head.split(separator)]
    if sum(bool(_VALUE.fullmatch(cell)) for cell in first) * 3 >= len(first):
        raise ValueError(
            "its first line holds values: put the columns' names there (nvidia-smi: --format=csv without noheader)"
        )
    source = io.BytesIO(data)
    options = {"separator": separator, "encoding": "utf8-lossy", "truncate_ragged_lines": True}
    sample = pl.read_csv(source, infer_schema=False, n_rows=SAMPLE_ROWS, **options)  # type: ignore[arg-type]
    types = {name: pl.Float64() if _all_plain(sample[name]) else pl.String() for name in sample.columns}
    source.seek(0)
    try:
        frame = pl.read_csv(source, schema_overrides=types, **options)  # type: ignore[arg-type]
    except PolarsError:
        # A cell further down is no number: such a column is read as text and looked at cell by cell.
        source.seek(0)
        frame = pl.read_csv(source, infer_schema=False, **options)  # type: ignore[arg-type]
    frame = frame.rename({name: name.strip().strip('"').lstrip("\ufeff") for name in frame.columns}, strict=False)
    if separator != ",":
        comma = pl.col(pl.String).str.replace(r"^(\s*[-+]?\d+),(\d+)", "$1.$2")
        frame = frame.with_columns(comma)
    return frame


def _as_utf8(data: bytes) -> bytes:
    for mark, encoding in ((b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"), (b"\xef\xbb\xbf", "utf-8-sig")):
        if data.startswith(mark):
            return data.decode(encoding).encode()
    return data


def _all_plain(column: pl.Series) -> bool:
    cells = [cell for cell in column if cell is not None]
    return bool(cells) and all(_PLAIN.fullmatch(cell) for cell in cells)

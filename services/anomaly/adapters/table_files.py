"""Read files of rows as a data frame: CSV of any dialect, Parquet, Arrow and JSON lines, also compressed.

The format is detected from the content, not from the name.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
from pathlib import Path
from typing import Any

import polars as pl
from polars.exceptions import PolarsError

from accelerator_autopilot.contracts.errors import InvalidInputError

SAMPLE_ROWS, HEAD_BYTES = 1000, 1 << 20
REPEATED = 4  # mean repetitions of a cell in a sample above which a column is stored as a category
SEPARATORS = (",", ";", "\t", "|")
ABSENT = (
    "",
    "-",
    "--",
    "n/a",
    "na",
    "nan",
    "null",
    "none",
    "nil",
    "[n/a]",
    "[not supported]",
    "not supported",
    "[unknown error]",
    "[insufficient permissions]",
    "[gpu is lost]",
    "err!",
    "#n/a",
    "n.a.",
)  # What occurs in rows but not in headers: numbers, with or without a unit, times and identifiers.
# What stands in rows but in no header: numbers, with or without a unit, times and identities.
_VALUE = re.compile(
    r"[-+]?\d+([.,]\d*)?([eE][-+]?\d+)?( ?[A-Za-z%°]{1,3})?|\d{4}[-/]\d\d?[-/]\d\d?.*|GPU-.*|0x.*|\[?N/A\]?"
)
_GZIP, _BZIP2, _XZ, _UTF8, _UTF16 = b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\xef\xbb\xbf", (b"\xff\xfe", b"\xfe\xff")
_PACKED = (_GZIP, _BZIP2, _XZ, _UTF8, *_UTF16)
_PLAIN = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?")


def read_frame(path: Path) -> pl.DataFrame:
    """Return every column of a file, as numbers where all of its cells are, else as text. Raises InvalidInputError."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
        # Files that need no conversion are scanned in place; packed or re-encoded ones are held in memory.
        source = path if not head.startswith(_PACKED) else _in_memory(_unpacked(path, head))
        if isinstance(source, io.BytesIO):
            head = source.getbuffer()[:HEAD_BYTES].tobytes()
        if head[:4] == b"PAR1":
            return _flat(pl.read_parquet(source))
        if head[:6] == b"ARROW1":
            return _flat(pl.read_ipc(source))
        if head.lstrip()[:1] == b"{":
            return _flat(pl.read_ndjson(source, infer_schema_length=None))
        return _read_csv(source, head)
    except (OSError, EOFError, lzma.LZMAError, PolarsError, ValueError) as error:
        raise InvalidInputError("input", str(path), f"cannot be read: {error}") from error


def _flat(frame: pl.DataFrame) -> pl.DataFrame:
    """Flatten nested columns, named by both names, or by their own where that is unique."""
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


def _unpacked(path: Path, head: bytes) -> bytes:
    data = path.read_bytes()
    if head.startswith(_GZIP):
        return gzip.decompress(data)
    if head.startswith(_BZIP2):
        return bz2.decompress(data)
    return lzma.decompress(data) if head.startswith(_XZ) else data


def _in_memory(data: bytes) -> io.BytesIO:
    for mark, encoding in ((_UTF8, "utf-8-sig"), *((mark, "utf-16") for mark in _UTF16)):
        if data.startswith(mark):
            return io.BytesIO(data.decode(encoding).encode())
    return io.BytesIO(data)


def _read_csv(source: Path | io.BytesIO, head: bytes) -> pl.DataFrame:
    # Tools often write a comment or an empty line before the header.
    skipped = 0
    while head[:1] in {b"#", b"\n", b"\r"} and b"\n" in head:
        head, skipped = head.partition(b"\n")[2], skipped + 1
    first_line = head[: head.find(b"\n") if b"\n" in head else len(head)].decode(errors="replace").strip("\r\n")
    if not first_line.strip():
        raise ValueError("the file is empty")
    separator = max(SEPARATORS, key=first_line.count)
    first = [cell.strip().strip('"') for cell in first_line.split(separator)]
    if sum(bool(_VALUE.fullmatch(cell)) for cell in first) * 3 >= len(first):
        raise ValueError(
            "the first line has no column names: add a header line (nvidia-smi: --format=csv without noheader)"
        )

    def read(**options: Any) -> pl.DataFrame:
        if isinstance(source, io.BytesIO):
            source.seek(0)
        return pl.read_csv(
            source, separator=separator, skip_lines=skipped, encoding="utf8-lossy", truncate_ragged_lines=True,
            **options,
        )  # fmt: skip

    sample = read(infer_schema=False, n_rows=SAMPLE_ROWS)
    types: dict[str, pl.DataType] = {
        name: pl.Float64() if _all_plain(sample[name]) else _text(sample[name], separator) for name in sample.columns
    }
    try:
        frame = read(schema_overrides=types)
    except PolarsError:
        # A later cell is not a number: the column is read as text and parsed cell by cell.
        frame = read(schema_overrides={n: pl.String() if kind == pl.Float64 else kind for n, kind in types.items()})
    frame = frame.rename({name: name.strip().strip('"').lstrip("\ufeff") for name in frame.columns}, strict=False)
    if separator != ",":
        comma = pl.col(pl.String).str.replace(r"^(\s*[-+]?\d+),(\d+)", "$1.$2")
        frame = frame.with_columns(comma)
    return frame


def _text(column: pl.Series, separator: str) -> pl.DataType:
    """Store a column of text as a category if its cells repeat, as most do."""
    repeats = separator == "," and column.n_unique() * REPEATED < len(column)
    return pl.Categorical() if repeats else pl.String()


def _all_plain(column: pl.Series) -> bool:
    cells = [cell for cell in column if cell is not None]
    return bool(cells) and all(_PLAIN.fullmatch(cell) for cell in cells)

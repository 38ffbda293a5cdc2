"""Read query results through PostgreSQL's binary COPY straight into arrays, without a Python object per value.

https://www.postgresql.org/docs/current/sql-copy.html, "Binary Format". It suits queries whose columns are all eight
bytes wide and never null, so that all rows have the same length.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from accelerator_autopilot.contracts.errors import UnavailableError

HEADER_BYTES = 19
SIGNATURE = b"PGCOPY\n\xff\r\n\x00"
TRAILER_BYTES = 2
# PostgreSQL's epoch.
EPOCH_2000_S = 946_684_800
Wide = Literal["float", "int", "time"]
_STORED = {"float": ">f8", "int": ">i8", "time": ">i8"}


class CopiedRows:
    """Collects COPY output and returns the columns; a `time` is in microseconds since 1970."""

    def __init__(self, columns: Mapping[str, Wide]) -> None:
        self._columns = columns
        parts = [
            (f"{name} bytes", ">i4") if size else (name, _STORED[kind])
            for name, kind in columns.items()
            for size in (1, 0)
        ]
        self._row = np.dtype([("fields", ">i2"), *parts])
        self._begun = False
        self._left = b""
        self._chunks: list[NDArray[np.void]] = []

    async def take(self, data: bytes) -> None:
        """Add the next bytes. Raises UnavailableError for rows of another format."""
        data = self._left + data
        if not self._begun:
            if len(data) < HEADER_BYTES:
                self._left = data
                return
            if not data.startswith(SIGNATURE):
                raise UnavailableError("the database returned rows in an unknown format")
            data, self._begun = data[HEADER_BYTES:], True
        whole = len(data) // self._row.itemsize
        self._left = data[whole * self._row.itemsize :]
        if whole:
            self._chunks.append(np.frombuffer(data, self._row, whole))

    def made(self) -> dict[str, NDArray[Any]]:
        """Return every column. Raises UnavailableError when some rows had nulls or values of another width."""
        rows = np.concatenate(self._chunks) if self._chunks else np.zeros(0, self._row)
        invalid = any((rows[f"{name} bytes"] != 8).any() for name in self._columns)
        if invalid or (rows["fields"] != len(self._columns)).any() or len(self._left) > TRAILER_BYTES:
            raise UnavailableError("the database returned rows of different formats")
        found: dict[str, NDArray[Any]] = {}
        for name, kind in self._columns.items():
            found[name] = rows[name].astype("f8" if kind == "float" else "i8")
            if kind == "time":
                found[name] += EPOCH_2000_S * 1_000_000
        return found

"""Blocks of samples as PostgreSQL's binary COPY stream, built by numpy.

The format is that of the PostgreSQL manual, "COPY, Binary Format": a header, then for each row the
number of fields and for each field its length (-1 for NULL) and its bytes in network order.
"""

from __future__ import annotations

import struct

import numpy as np

from services.telemetry.domain.blocks import SampleBlock
from shared.metrics_catalogue import BY_NAME

_HEADER = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
_TRAILER = struct.pack(">h", -1)
_POSTGRES_EPOCH_US = 946_684_800_000_000  # 2000-01-01 UTC, in µs since 1970


def copy_binary(block: SampleBlock) -> bytes:
    """The COPY stream of columns ts, device_id and the block's metrics; NaN becomes NULL."""
    fields: list[tuple[str, str]] = [
        ("fields", ">i2"),
        ("ts_len", ">i4"),
        ("ts", ">i8"),
        ("id_len", ">i4"),
        ("id", ">i4"),
    ]
    for i, metric in enumerate(block.metrics):
        fields += [(f"len{i}", ">i4"), (f"v{i}", ">f8" if BY_NAME[metric].is_double else ">f4")]
    rows = np.empty(len(block), np.dtype(fields))
    rows["fields"], rows["ts_len"], rows["id_len"] = 2 + len(block.metrics), 8, 4
    rows["ts"], rows["id"] = block.at_us - _POSTGRES_EPOCH_US, block.device_ids
    missing = np.isnan(block.values)
    for i, metric in enumerate(block.metrics):
        rows[f"len{i}"] = 8 if BY_NAME[metric].is_double else 4
        rows[f"v{i}"] = block.values[:, i]
    if not missing.any():
        return _HEADER + rows.tobytes() + _TRAILER
    assert rows.dtype.fields is not None  # noqa: S101  it was built from fields
    keep = np.ones((len(block), rows.dtype.itemsize), bool)
    for i in map(int, np.flatnonzero(missing.any(axis=0))):
        null = missing[:, i]
        rows[f"len{i}"][null] = -1
        kind, offset = rows.dtype.fields[f"v{i}"][:2]
        keep[null, offset : offset + kind.itemsize] = False
    flat = rows.view(np.uint8).reshape(keep.shape)
    return _HEADER + flat[keep].tobytes() + _TRAILER

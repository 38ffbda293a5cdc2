"""Load arrays from the bytes of an .npz file. Pure."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_BYTES = 512 * 2**20


def load_arrays(data: bytes) -> dict[str, NDArray[Any]]:
    """Return arrays by name. Raises ValueError for a damaged file, or one that unpacks to more than MAX_BYTES."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            size = sum(member.file_size for member in archive.infolist())
        arrays = {}
        if size <= MAX_BYTES:
            with np.load(io.BytesIO(data), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
    except Exception as error:  # zipfile, zlib and numpy raise a dozen types for damaged files
        raise ValueError(f"is not a valid npz file: {type(error).__name__}") from error
    if size > MAX_BYTES:
        raise ValueError(f"unpacks to {size} bytes, more than {MAX_BYTES}")
    return arrays

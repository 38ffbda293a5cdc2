"""Read snapshots of versions before 2: files of torch.save, without torch.

Such a file is a zip of one pickle and the bytes of each tensor. The pickle may refer only to what tensors consist of.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_KINDS = {"FloatStorage": np.float32, "DoubleStorage": np.float64}


def read_torch_file(path: Path) -> Any:
    """Return the saved object, with arrays in place of tensors.

    Raises pickle.UnpicklingError, KeyError, ValueError and OSError.
    """
    with zipfile.ZipFile(path) as file:
        index = next(name for name in file.namelist() if name.endswith("data.pkl"))
        folder = index.removesuffix("data.pkl")
        return _Reader(io.BytesIO(file.read(index)), lambda key: file.read(f"{folder}data/{key}")).load()


class _Reader(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, read: Callable[[str], bytes]) -> None:
        super().__init__(file)
        self._read = read

    def find_class(self, module: str, name: str) -> Any:
        """Allow only what a file of tensors contains."""
        if module == "torch" and name in _KINDS:
            return name
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a snapshot")

    def persistent_load(self, pid: Any) -> npt.NDArray[Any]:
        """Return the bytes of a tensor."""
        _, kind, key, *_ = pid
        return np.frombuffer(self._read(str(key)), _KINDS[kind])


def _tensor(numbers: npt.NDArray[Any], offset: int, size: tuple[int, ...], *_: Any) -> npt.NDArray[Any]:
    """Return a contiguous tensor as an array, like all tensors of a snapshot."""
    return numbers[offset : offset + math.prod(size)].reshape(size).copy()

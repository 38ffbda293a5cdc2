"""Arrays with one row per slot: read for the slots of a batch, written back, grown, saved and loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from accelerator_autopilot.anomaly.domain.last_values import Slots as Indices
from accelerator_autopilot.contracts.errors import InvalidInputError

# float32; numpy's type stubs widen an operation with a Python number more than numpy does.
Floats = npt.NDArray[Any]
Saved = Mapping[str, npt.NDArray[Any]]
# Missing values are NaN and become zero explicitly; unseen ones are divided by zero without a warning.
quietly = np.errstate(invalid="ignore", divide="ignore", over="ignore", under="ignore")


class Slots:
    """Named float32 arrays whose first dimension counts slots; a new slot holds each array's initial value."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], initial: Mapping[str, float] | None = None) -> None:
        self._initial = {name: (initial or {}).get(name, 0.0) for name in shapes}
        self._arrays: dict[str, Floats] = {name: np.empty((0, *shape), np.float32) for name, shape in shapes.items()}

    def __len__(self) -> int:
        return len(next(iter(self._arrays.values())))

    @property
    def bytes_per_slot(self) -> int:
        """Memory of one slot."""
        return sum(4 * math.prod(array.shape[1:]) for array in self._arrays.values())

    def grow(self, slots: int) -> None:
        """Grow to at least this many slots."""
        if slots <= len(self):
            return
        more = max(slots, 2 * len(self)) - len(self)
        for name, array in self._arrays.items():
            fresh = np.full((more, *array.shape[1:]), self._initial[name], np.float32)
            self._arrays[name] = np.concatenate([array, fresh])

    def forget(self, slots: Indices) -> None:
        """Reset slots to their initial values."""
        for name, array in self._arrays.items():
            array[slots] = self._initial[name]

    def read(self, slots: Indices) -> dict[str, Floats]:
        """Return copies of the rows of these slots."""
        return {name: array.take(slots, axis=0) for name, array in self._arrays.items()}

    def write(self, slots: Indices, rows: Mapping[str, Floats]) -> None:
        """Write rows back; arrays that are left out keep theirs."""
        for name, row in rows.items():
            self._arrays[name][slots] = row

    def snapshot(self) -> dict[str, Floats]:
        """Return the arrays themselves, to be saved."""
        return dict(self._arrays)

    def check(self, saved: Saved) -> None:
        """Check whether saved arrays fit. Raises InvalidInputError when names or shapes are of another version."""
        for name, array in self._arrays.items():
            found = saved.get(name)
            if found is None or found.ndim == 0 or found.shape[1:] != array.shape[1:]:
                shape = None if found is None else found.shape
                raise InvalidInputError(f"snapshot.{name}", shape, f"must have the shape {array.shape}")

    def load(self, saved: Saved) -> None:
        """Load saved arrays. Raises InvalidInputError."""
        self.check(saved)
        self._arrays = {name: np.array(saved[name], np.float32) for name in self._arrays}

"""The learned detector's state, ready to be stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt


@dataclass(frozen=True)
class Snapshot:
    """The device slots and the learned arrays."""

    roster: list[tuple[str, str, bool]]
    arrays: dict[str, npt.NDArray[Any]]

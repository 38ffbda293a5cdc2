"""The last looks at each pool, shown to policies that have not seen them: after a restart, or a changed bound."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from services.scheduler.domain.pool import Doubles, Seen
from services.scheduler.domain.pool_rows import COLUMNS, seen_from

LONGEST_S, MOST_LOOKS = 3600.0, 900
MOST_SHOWN = 100_000  # looks times pools, so that a large fleet's first round is still a matter of seconds
Rows = NDArray[np.float32]


class Recollection:
    """Rows of `pool_rows.COLUMNS` for each pool, the oldest first."""

    def __init__(self, interval_s: float) -> None:
        self.interval_s = interval_s
        self._most = min(MOST_LOOKS, max(1, int(LONGEST_S / interval_s)))
        self._rows: dict[str, deque[Rows]] = {}

    def add(self, pools: Sequence[str | None], columns: Doubles) -> None:
        """One look at these pools, `columns` [len(COLUMNS), P]; None is one that was not there."""
        rows = columns.T.astype(np.float32)
        for pool, row in zip(pools, rows, strict=True):
            if pool is not None:
                self._rows.setdefault(pool, deque(maxlen=self._most)).append(row)

    def alike(self, pools: Iterable[str]) -> list[list[str]]:
        """The same pools in groups that were looked at about as long."""
        groups: dict[int, list[str]] = {}
        for pool in pools:
            groups.setdefault(len(self._rows.get(pool, ())).bit_length(), []).append(pool)
        return list(groups.values())

    def shown(self, pools: Sequence[str]) -> list[Seen]:
        """Looks at these pools together, as many as there are of each; the newest is the last."""
        count = min((len(self._rows.get(pool, ())) for pool in pools), default=0)
        count = min(count, MOST_SHOWN // max(len(pools), 1))
        if not count:
            return []
        looks = np.stack([np.array(self._rows[pool])[-count:] for pool in pools], axis=2)
        return [seen_from(columns.astype(float)) for columns in looks]

    def forget_all_but(self, pools: Iterable[str]) -> None:
        """Pools that are long gone."""
        kept = set(pools)
        self._rows = {pool: rows for pool, rows in self._rows.items() if pool in kept}

    def kept(self) -> dict[str, Rows]:
        """[T, len(COLUMNS)] by pool, to be written down."""
        # Copies made in one step each: a round in another thread may be adding looks.
        now = [(pool, list(rows)) for pool, rows in list(self._rows.items())]
        return {pool: np.stack(rows) for pool, rows in now}

    def recall(self, kept: Mapping[str, Rows]) -> None:
        """What was written down, instead of what is known. Raises ValueError for rows of another shape."""
        if any(rows.ndim != 2 or rows.shape[1] != len(COLUMNS) for rows in kept.values()):
            raise ValueError(f"looks have {len(COLUMNS)} columns: {', '.join(COLUMNS)}")
        self._rows = {pool: deque(rows.astype(np.float32), maxlen=self._most) for pool, rows in kept.items()}

"""Show recent observations of each pool to policies that have not seen them: after a restart or a changed bound."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from accelerator_autopilot.scheduler.domain.observation_arrays import COLUMNS, seen_from
from accelerator_autopilot.scheduler.domain.pool_arrays import Doubles, PoolObservations

MAX_S, MAX_OBSERVATIONS = 3600.0, 900
MAX_SHOWN = 100_000  # observations times pools, so that a large fleet's first round still takes only seconds
POOLS_PER_BLOCK = 256
Rows = NDArray[np.float32]


class _Block:
    """Ring buffers of the observations of some pools; memory that was never written costs nothing."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._looks: Rows = np.zeros((POOLS_PER_BLOCK, most, len(COLUMNS)), np.float32)
        self._next = np.zeros(POOLS_PER_BLOCK, np.intp)
        self.count = np.zeros(POOLS_PER_BLOCK, np.intp)

    def add(self, places: NDArray[np.intp], rows: Rows) -> None:
        """Add one observation of each of these pools."""
        self._looks[places, self._next[places]] = rows
        self._next[places] = (self._next[places] + 1) % self._most
        self.count[places] = np.minimum(self.count[places] + 1, self._most)

    def rows(self, place: int) -> Rows:
        """Return a copy, the oldest first."""
        count, following = int(self.count[place]), int(self._next[place])
        looks = self._looks[place]
        return looks[:count].copy() if count < self._most else np.concatenate([looks[following:], looks[:following]])

    def put(self, place: int, rows: Rows) -> None:
        """Replace the content."""
        rows = rows[-self._most :]
        self._looks[place, : len(rows)] = rows
        self.count[place], self._next[place] = len(rows), len(rows) % self._most


class PolicyWarmup:
    """Rows of `observation_arrays.COLUMNS` for each pool, the oldest first. One thread may add while another copies."""

    def __init__(self, interval_s: float) -> None:
        self.interval_s = interval_s
        self._most = min(MAX_OBSERVATIONS, max(1, int(MAX_S / interval_s)))
        self._lock = threading.Lock()
        self._places: dict[str, int] = {}
        self._free: list[int] = []
        self._blocks: list[_Block] = []

    def add(self, pools: Sequence[str | None], columns: Doubles) -> None:
        """Add one observation of these pools, `columns` [len(COLUMNS), P]; None is a pool that was missing."""
        there = [pool is not None for pool in pools]
        rows = columns.T.astype(np.float32)[np.array(there, bool)]
        with self._lock:
            places = np.array([self._place(pool) for pool in pools if pool is not None], np.intp)
            blocks = places // POOLS_PER_BLOCK
            for number in np.unique(blocks).tolist():
                here = blocks == number
                self._blocks[number].add(places[here] % POOLS_PER_BLOCK, rows[here])

    def group_by_length(self, pools: Iterable[str]) -> list[list[str]]:
        """Group the same pools by roughly equal numbers of observations."""
        groups: dict[int, list[str]] = {}
        for pool in pools:
            groups.setdefault(self._count(pool).bit_length(), []).append(pool)
        return list(groups.values())

    def shown(self, pools: Sequence[str]) -> list[PoolObservations]:
        """Return the common observations of these pools; the newest is the last."""
        count = min((self._count(pool) for pool in pools), default=0)
        count = min(count, MAX_SHOWN // max(len(pools), 1))
        if not count:
            return []
        looks = np.stack([self._rows(pool)[-count:] for pool in pools], axis=2)
        return [seen_from(columns.astype(float)) for columns in looks]

    def forget_all_but(self, pools: Iterable[str]) -> None:
        """Forget all but these pools."""
        kept = set(pools)
        with self._lock:
            for pool in [pool for pool in self._places if pool not in kept]:
                place = self._places.pop(pool)
                self._blocks[place // POOLS_PER_BLOCK].put(
                    place % POOLS_PER_BLOCK, np.zeros((0, len(COLUMNS)), np.float32)
                )
                self._free.append(place)

    def kept(self) -> dict[str, Rows]:
        """Return [T, len(COLUMNS)] by pool, to be stored: copies, so call it in a thread."""
        found = {}
        for pool in list(self._places):
            with self._lock:
                rows = self._rows(pool) if pool in self._places else np.zeros((0, len(COLUMNS)), np.float32)
            if len(rows):
                found[pool] = rows
        return found

    def restore(self, kept: Mapping[str, Rows]) -> None:
        """Replace the state by stored observations. Raises ValueError for rows of another shape."""
        if any(rows.ndim != 2 or rows.shape[1] != len(COLUMNS) for rows in kept.values()):
            raise ValueError(f"observations have {len(COLUMNS)} columns: {', '.join(COLUMNS)}")
        with self._lock:
            self._places, self._free, self._blocks = {}, [], []
            for pool, rows in kept.items():
                place = self._place(pool)
                self._blocks[place // POOLS_PER_BLOCK].put(place % POOLS_PER_BLOCK, rows.astype(np.float32))

    def _place(self, pool: str) -> int:
        place = self._places.get(pool)
        if place is None:
            if not self._free:
                first = len(self._blocks) * POOLS_PER_BLOCK
                self._blocks.append(_Block(self._most))
                self._free = list(range(first + POOLS_PER_BLOCK - 1, first - 1, -1))
            place = self._places[pool] = self._free.pop()
        return place

    def _count(self, pool: str) -> int:
        place = self._places.get(pool)
        return 0 if place is None else int(self._blocks[place // POOLS_PER_BLOCK].count[place % POOLS_PER_BLOCK])

    def _rows(self, pool: str) -> Rows:
        place = self._places[pool]
        return self._blocks[place // POOLS_PER_BLOCK].rows(place % POOLS_PER_BLOCK)

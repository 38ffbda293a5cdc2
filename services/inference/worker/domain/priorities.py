"""Choose the next job: urgent ones first without starving the others, and fair between submitters. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar

T = TypeVar("T")

# Out of 21 jobs while all three queues are full: 16 high, 4 normal, 1 low.
WEIGHTS = (16, 4, 1)
FAR = datetime.max.replace(tzinfo=UTC)


@dataclass
class StridePicker:
    """Stride scheduling (Waldspurger and Weihl, MIT-LCS-TM-528, 1995) over queues of fixed weights.

    A queue that was empty rejoins at the others' pass value, so that it cannot accumulate credit.
    """

    weights: Sequence[int] = WEIGHTS
    _passes: list[float] = field(init=False)
    _waiting: list[bool] = field(init=False)

    def __post_init__(self) -> None:
        self._passes = [0.0] * len(self.weights)
        self._waiting = [False] * len(self.weights)

    def next(self, lengths: Sequence[int]) -> int | None:
        """Return the next queue among those that are not empty; None when all are."""
        filled = [i for i, n in enumerate(lengths) if n]
        if not filled:
            self._waiting = [False] * len(self.weights)
            return None
        known = [self._passes[i] for i in filled if self._waiting[i]]
        for i in filled:
            if not self._waiting[i]:
                self._passes[i] = max(self._passes[i], min(known)) if known else 0.0
        self._waiting = [n > 0 for n in lengths]
        chosen = min(filled, key=lambda i: (self._passes[i], i))
        self._passes[chosen] += 1 / self.weights[chosen]
        return chosen


def fair_order(jobs: Sequence[T], submitter: Callable[[T], str], deadline: Callable[[T], datetime | None]) -> list[T]:
    """Order jobs fairly: one of each submitter in turn, the earliest deadline first.

    A submitter's jobs without deadlines stay in the order in which they arrived.
    """
    by_submitter: dict[str, list[T]] = defaultdict(list)
    for job in jobs:
        by_submitter[submitter(job)].append(job)
    for own in by_submitter.values():
        own.sort(key=lambda job: deadline(job) or FAR)
    rounds = [(turn, job) for own in by_submitter.values() for turn, job in enumerate(own)]
    return [job for _, job in sorted(rounds, key=lambda pair: (pair[0], deadline(pair[1]) or FAR))]

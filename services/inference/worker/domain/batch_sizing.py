"""Choose how many jobs to take at once: as many as fit the time budget and the memory, learned from batches. Pure."""

from __future__ import annotations

from dataclasses import dataclass

GROWTH = 2.0
# A size that ran out of memory is retried after this many smaller batches: memory may be free by then.
FORGET_AFTER = 1000


@dataclass
class BatchSizer:
    """Batch size of one kind. A batch should take about `budget_s`, so that no worker hoards slow jobs."""

    largest: int
    budget_s: float = 0.25
    size: int = 1
    share: float = 1.0
    _ceiling: int | None = None
    _below: int = 0

    def record(self, count: int, took_s: float) -> None:
        """Learn from a batch: at most double, shrink immediately."""
        if count < 1:
            return
        if self._ceiling is not None:
            self._below += 1
            if self._below >= FORGET_AFTER:
                self._ceiling = None
        fitting = self.budget_s / max(took_s / count, 1e-6)
        if fitting < self.size:
            self.size = max(1, int(fitting))
        elif count >= self.allowed:
            self.size = min(self.largest, max(self.size + 1, int(min(fitting, self.size * GROWTH))))
        self.size = min(self.size, self._ceiling or self.size)

    def out_of_memory(self, count: int) -> int:
        """Record that `count` jobs were too many; returns how many to try, 0 when one alone is too many."""
        half = count // 2
        self._ceiling, self._below = max(1, half), 0
        self.size = min(self.size, self._ceiling)
        return half

    @property
    def allowed(self) -> int:
        """The size that the device's state allows; 0 takes nothing."""
        return max(1, int(self.size * self.share)) if self.share > 0 else 0

    @property
    def prefetches(self) -> bool:
        """Whether to fetch the next batch while one runs: only while jobs are short."""
        return self.size > 1 and self.share > 0

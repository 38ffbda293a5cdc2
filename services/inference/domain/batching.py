"""How many jobs to take at once: as many as fit a time budget, learned from the last batches. Pure."""

from __future__ import annotations

from dataclasses import dataclass

GROWTH = 2.0


@dataclass
class BatchSizer:
    """Batch size of one kind. A batch should take about `budget_s`, so that no worker hoards slow jobs."""

    largest: int
    budget_s: float = 0.25
    size: int = 1

    def record(self, count: int, took_s: float) -> None:
        """Learn from a batch: at most double, shrink at once."""
        if count < 1:
            return
        fitting = self.budget_s / max(took_s / count, 1e-6)
        if fitting < self.size:
            self.size = max(1, int(fitting))
        elif count >= self.size:
            self.size = min(self.largest, max(self.size + 1, int(min(fitting, self.size * GROWTH))))

    @property
    def prefetches(self) -> bool:
        """Whether the next batch may be fetched while one runs: only while jobs are short."""
        return self.size > 1

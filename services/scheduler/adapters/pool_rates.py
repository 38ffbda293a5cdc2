"""Turn counters of a pool's queue and workers into rates and waiting times."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from operator import is_

from accelerator_autopilot.contracts.messages.jobs import PoolStatus, WorkerStatus
from accelerator_autopilot.scheduler.domain.job_energy import WorkerCounts

LOAD_MEMORY = 0.3


@dataclass(frozen=True)
class QueueCount:
    """Counts of a pool's consumers: jobs not delivered yet, delivered but not ended, deliveries in total.

    `redelivered` is how many of the delivered jobs were delivered more than once.
    """

    pending: int
    in_hand: int
    delivered: int
    redelivered: int = 0


@dataclass(frozen=True)
class Progress:
    """Progress since the previous observation."""

    waiting: int
    arrivals: int
    completions: int
    service_s: float | None
    oldest_wait_s: float
    load_time_s: float | None
    slots: int


@dataclass
class PoolRates:
    """One pool, over all its nodes."""

    _came: int = 0
    _before: QueueCount | None = None
    _arrived: deque[tuple[datetime, int]] = field(default_factory=deque)
    _counts: WorkerCounts = field(default_factory=WorkerCounts)
    _starting: set[str] = field(default_factory=set)
    _load_time_s: float | None = None
    _slots: int = 1
    _running: int = 0
    _seen: list[list[WorkerStatus]] = field(default_factory=list)

    def update(self, queue: QueueCount, parts: Sequence[PoolStatus], now: datetime) -> Progress:
        """Process one observation."""
        done, busy_s = (0, 0.0) if self._same(parts) else self._look_at(parts, now)
        waiting = queue.pending + max(0, queue.in_hand - self._running)
        arrivals = self._arrivals(queue, done)
        return Progress(
            waiting=waiting,
            arrivals=arrivals,
            completions=done,
            service_s=busy_s / done if done > 0 and busy_s > 0 else None,
            oldest_wait_s=self._oldest_wait_s(arrivals, waiting, now),
            load_time_s=self._load_time_s,
            slots=self._slots,
        )

    def _same(self, parts: Sequence[PoolStatus]) -> bool:
        """Whether the workers' status is unchanged since the previous observation: then it is the same list object."""
        before, self._seen = self._seen, [part.workers for part in parts]
        return len(before) == len(self._seen) and all(map(is_, before, self._seen))

    def _look_at(self, parts: Sequence[PoolStatus], now: datetime) -> tuple[int, float]:
        """Return jobs done and seconds of work since the previous observation."""
        workers = [w for part in parts for w in part.workers]
        self._running = sum(len(w.running) for w in workers)
        self._learn_load_time(workers, now)
        # Remembered, so that a pool without workers keeps its properties.
        self._slots = max((w.together for w in workers), default=self._slots)
        return self._counts.since(workers)

    def _arrivals(self, queue: QueueCount, done: int) -> int:
        """Return the jobs that arrived since the previous observation.

        Deliveries count a job again each time it is given back, and the server has no other count. While any
        delivered job was redelivered, arrivals are estimated as the change in the backlog plus the completed
        jobs.
        """
        before, self._before = self._before or queue, queue
        if queue.redelivered or before.redelivered:
            came = (queue.pending + queue.in_hand) - (before.pending + before.in_hand) + done
        else:
            came = (queue.delivered + queue.pending) - (before.delivered + before.pending)
        return max(0, came)

    def _oldest_wait_s(self, arrivals: int, waiting: int, now: datetime) -> float:
        # First come, first served: the job at the head arrived when the count exceeded those that have left.
        self._came += arrivals
        if arrivals:
            self._arrived.append((now, self._came))
        gone = self._came - waiting
        while self._arrived and self._arrived[0][1] <= gone:
            self._arrived.popleft()
        if not waiting or not self._arrived:
            return 0.0
        return (now - self._arrived[0][0]).total_seconds()

    def _learn_load_time(self, workers: Sequence[WorkerStatus], now: datetime) -> None:
        for worker in workers:
            if worker.state == "ready" and worker.worker in self._starting:
                took_s = max(0.0, (now - worker.started_at).total_seconds())
                old = took_s if self._load_time_s is None else self._load_time_s
                self._load_time_s = old + LOAD_MEMORY * (took_s - old)
        self._starting = {w.worker for w in workers if w.state == "starting"}

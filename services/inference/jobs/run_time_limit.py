"""Limit how long batches run. Threads cannot be killed, so a worker whose batch overruns exits."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from accelerator_autopilot.inference.jobs.completion import ClaimedJob
from accelerator_autopilot.inference.jobs.run_journal import RunJournal, RunningJob
from accelerator_autopilot.inference.worker.application.model_cache import MODEL_CACHE
from accelerator_autopilot.inference.worker.application.worker_state import RUN_TIMED_OUT

log = logging.getLogger(__name__)

CHECK_INTERVAL_S = 0.25
# A check that comes this much late means that the whole process was suspended.
STALL_S = 2.0
# How long the event loop has to record the jobs' outcomes before the process exits regardless.
RECORDING_GRACE_S = 8.0
# A model that loads for longer than this is considered hung.
MAX_LOAD_S = 1800.0


@dataclass(eq=False)
class Run:
    """A running batch, when it started (monotonic), and the time spent on loading models by then."""

    taken: Sequence[ClaimedJob]
    limit_s: float
    began: float
    loaded_s: float

    def overdue(self, now: float) -> bool:
        """Whether it exceeds its limit; loading a model does not count."""
        loading_s = min(MODEL_CACHE.loading_s(now) - self.loaded_s, MAX_LOAD_S)
        return now - self.began - loading_s > self.limit_s


def limit_of(timeouts: Sequence[float | None], longest_s: float) -> float:
    """Return how many seconds a batch may take: jobs times the shortest limit of any, at most `longest_s`."""
    shortest = min(min(t or longest_s, longest_s) for t in timeouts)
    return min(longest_s, shortest * len(timeouts))


class RunTimeLimit:
    """Tracks what runs, records it for the pool, and detects what runs for too long."""

    def __init__(self, journal: RunJournal, longest_s: float) -> None:
        self.journal, self._longest_s = journal, longest_s
        self._runs: list[Run] = []
        self._lock = threading.Lock()

    @contextmanager
    def running(self, taken: Sequence[ClaimedJob]) -> Iterator[None]:
        """Track these jobs as running until the end of the context."""
        now = time.monotonic()
        limit_s = limit_of([t.job.timeout_s for t in taken], self._longest_s)
        run = Run(taken, limit_s, now, MODEL_CACHE.loading_s(now))
        with self._lock:
            self._runs.append(run)
            self._write()
        try:
            yield
        finally:
            with self._lock:
                self._runs.remove(run)
                self._write()

    def overdue(self) -> list[Run]:
        """Return a batch that exceeds its limit, if any."""
        now = time.monotonic()
        with self._lock:
            return [run for run in self._runs if run.overdue(now)]

    def start(self, end: Callable[[list[Run]], None]) -> None:
        """Check from a thread, so that a blocked event loop does not matter; `end` is called there, once."""
        threading.Thread(target=self._look, args=[end], name="run watch", daemon=True).start()

    def _look(self, end: Callable[[list[Run]], None]) -> None:
        while True:
            before = time.monotonic()
            time.sleep(CHECK_INTERVAL_S)
            stood_s = time.monotonic() - before - CHECK_INTERVAL_S
            if stood_s > STALL_S:
                # A process that was stopped, or a machine that was suspended, ran nothing meanwhile.
                with self._lock:
                    for run in self._runs:
                        run.began += stood_s
            late = self.overdue()
            if late:
                log.error("run exceeded its limit", extra={"jobs": [t.job.id for r in late for t in r.taken][:64]})
                end(late)
                time.sleep(RECORDING_GRACE_S)
                os._exit(RUN_TIMED_OUT)

    def _write(self) -> None:
        self.journal.running([RunningJob(id=t.job.reference, alone=t.alone) for run in self._runs for t in run.taken])

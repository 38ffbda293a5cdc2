"""Admission control: a rate and a number of unfinished jobs per key, and a limit on the whole queue. Pure.

Each gateway counts the jobs that it admitted itself, and starts from zero after a restart.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from itertools import islice

from accelerator_autopilot.contracts.errors import BusyError
from accelerator_autopilot.contracts.messages.jobs import Priority

LOWER: dict[Priority, Priority] = {"high": "normal", "normal": "low", "low": "low"}
WINDOW_S = 60.0
MIN_RATE = 0.1


@dataclass(frozen=True)
class Quota:
    """What one submitter may use. Beyond `fair_share` unfinished jobs, further ones get a lower priority."""

    jobs_per_minute: int
    unfinished: int
    fair_share: int


@dataclass
class _Account:
    submitted: deque[float] = field(default_factory=deque)
    unfinished: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class _Counted:
    owner: str
    at_s: float


@dataclass
class Admission:
    """Tracks usage by submitter."""

    quota: Quota
    queue_limit: int
    _accounts: dict[str, _Account] = field(default_factory=dict)
    _finished: deque[float] = field(default_factory=lambda: deque(maxlen=10_000))
    _owners: dict[str, _Counted] = field(default_factory=dict)

    def admit(self, submitter: str, count: int, queued: int, now_s: float) -> None:
        """Raise BusyError, with the time to retry, when `count` more jobs are too many."""
        account = self._accounts.setdefault(submitter, _Account())
        while account.submitted and account.submitted[0] <= now_s - WINDOW_S:
            account.submitted.popleft()
        if queued + count > self.queue_limit:
            over = queued + count - self.queue_limit
            raise BusyError(
                f"the queue is full: {queued} jobs, at most {self.queue_limit} are allowed", over / self._rate(now_s)
            )
        if len(account.unfinished) + count > self.quota.unfinished:
            over = len(account.unfinished) + count - self.quota.unfinished
            unfinished = len(account.unfinished)
            reason = f"{submitter} has {unfinished} unfinished jobs; at most {self.quota.unfinished} are allowed"
            raise BusyError(reason, over / self._rate(now_s))
        if len(account.submitted) + count > self.quota.jobs_per_minute:
            wait_s = account.submitted[0] + WINDOW_S - now_s if account.submitted else WINDOW_S
            raise BusyError(f"{submitter} may submit at most {self.quota.jobs_per_minute} jobs per minute", wait_s)

    def priority(self, submitter: str, wanted: Priority) -> Priority:
        """Return the priority of a submitter's next job."""
        account = self._accounts.get(submitter)
        crowded = account is not None and len(account.unfinished) >= self.quota.fair_share
        return LOWER[wanted] if crowded else wanted

    def uncounted(self, submitter: str, job_ids: list[str]) -> list[str]:
        """Return the given jobs that are not counted as unfinished."""
        account = self._accounts.get(submitter)
        return [job_id for job_id in job_ids if account is None or job_id not in account.unfinished]

    def submitted(self, submitter: str, job_ids: list[str], now_s: float) -> list[str]:
        """Count jobs about to be stored that were not counted before. Results may arrive before all are stored."""
        account = self._accounts.setdefault(submitter, _Account())
        new = self.uncounted(submitter, job_ids)
        account.submitted.extend([now_s] * len(new))
        account.unfinished.update(new)
        self._owners.update(dict.fromkeys(new, _Counted(submitter, now_s)))
        return new

    def withdrawn(self, job_ids: list[str]) -> None:
        """Uncount jobs that were not stored."""
        for job_id in job_ids:
            counted = self._owners.pop(job_id, None)
            if counted is not None:
                account = self._accounts[counted.owner]
                account.unfinished.discard(job_id)
                if account.submitted:
                    account.submitted.pop()

    def finished(self, job_id: str, now_s: float) -> None:
        """Record that a job has its result."""
        self._finished.append(now_s)
        self.gone(job_id)

    def gone(self, job_id: str) -> None:
        """Uncount a job, however it ended."""
        counted = self._owners.pop(job_id, None)
        if counted is not None:
            self._accounts[counted.owner].unfinished.discard(job_id)

    def doubtful(self, counted_before_s: float, most: int) -> list[str]:
        """Return some jobs that have counted as unfinished for long; each call returns the next ones."""
        found = list(islice((job for job, counted in self._owners.items() if counted.at_s < counted_before_s), most))
        for job_id in found:
            self._owners[job_id] = self._owners.pop(job_id)
        return found

    def _rate(self, now_s: float) -> float:
        """Return how many jobs end per second, over the last minute."""
        recent = sum(at > now_s - WINDOW_S for at in self._finished)
        return max(MIN_RATE, recent / WINDOW_S)

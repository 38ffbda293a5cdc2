"""Decide what happens to a job after a failed attempt. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from accelerator_autopilot.contracts.errors import AutopilotError
from accelerator_autopilot.contracts.messages.jobs import DeadReason, Job, JobError

BACKOFF_S = (0.5, 2.0, 8.0, 30.0)
# The pool counts the workers that a job killed; this limit covers jobs that kill their pool as well.
SILENT_DELIVERIES = 20
MAX_KILLS = 3
# Attempts on one device count once, up to this limit.
ATTEMPTS_FOR_ONE = 5
# A job with needs is redelivered until a worker fits; this allows more than a week of redeliveries.
SILENT_DELIVERIES_WITH_NEEDS = 70_000


@dataclass(frozen=True)
class EndJob:
    """Give up for this reason; `why` describes it where no recorded error does."""

    reason: DeadReason
    why: str = field(default="", compare=False)


@dataclass(frozen=True)
class Retry:
    """Try again after this delay."""

    delay_s: float


def expires_at(job: Job) -> datetime:
    """Return when a job that has not started expires."""
    ends = job.submitted_at + timedelta(seconds=job.ttl_s)
    if job.not_before is not None:
        ends = max(ends, job.not_before + timedelta(seconds=job.ttl_s))
    return min(ends, job.deadline_at) if job.deadline_at else ends


@dataclass(frozen=True)
class Places:
    """Devices, as <node>/<device>, on which a job may run: how many besides this one, and those that fail jobs."""

    others: int
    suspected: frozenset[str] = frozenset()


def counted(errors: list[JobError], places: Places | None) -> int:
    """Return how many of the failed attempts count against the job.

    While there are other devices, failures on one device count once, and failures on a suspected device not at all:
    a broken device fails jobs faster than the others complete them.
    """
    if places is None or places.others < 1:
        return len(errors)
    count, last = 0, ""
    for error in errors:
        if error.device in places.suspected or (error.device and error.device == last):
            continue
        count, last = count + 1, error.device
    return max(count, len(errors) // ATTEMPTS_FOR_ONE)


def before_attempt(
    job: Job,
    delivered: int,
    errors: list[JobError],
    now: datetime,
    *,
    kills: int = 0,
    places: Places | None = None,
) -> EndJob | None:
    """Decide whether a delivered job should not run at all.

    Deliveries that ended without an error (a worker died or drained) count separately: some are normal, more mean
    that the job kills its workers. Kills that the pool counted also count.
    """
    if now > expires_at(job):
        return EndJob("expired", expired_text(job))
    silent = SILENT_DELIVERIES if job.needs is None else SILENT_DELIVERIES_WITH_NEEDS
    if kills >= MAX_KILLS:
        return EndJob("attempts_exhausted", f"killed its worker {kills} times")
    if counted(errors, places) >= job.max_attempts:
        return EndJob("attempts_exhausted")
    if delivered - len(errors) > job.max_attempts + silent:
        died = delivered - 1 - len(errors)
        return EndJob("attempts_exhausted", f"its workers died or returned it {died} times without an outcome")
    return None


def expired_text(job: Job) -> str:
    """Say why a job that has not started expired."""
    if job.deadline_at is not None and expires_at(job) == job.deadline_at:
        return f"it had not started by its deadline, {job.deadline_at.isoformat(timespec='seconds')}"
    since = max(job.submitted_at, job.not_before or job.submitted_at)
    return f"it had not started {job.ttl_s:g} s (ttl_s) after {since.isoformat(timespec='seconds')}"


def after_error(job: Job, error: BaseException, failed_attempts: int) -> EndJob | Retry:
    """Decide whether a failed job gets another attempt; `failed_attempts` includes this one."""
    if isinstance(error, AutopilotError) and not error.retryable:
        return EndJob("permanent_error")
    if failed_attempts >= job.max_attempts:
        return EndJob("attempts_exhausted")
    return Retry(BACKOFF_S[min(failed_attempts, len(BACKOFF_S)) - 1])

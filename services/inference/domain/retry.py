"""What becomes of a job after a failed attempt. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from shared.errors import AutopilotError
from shared.messages.jobs import Job, JobError

BACKOFF_S = (0.5, 2.0, 8.0, 30.0)
SILENT_DELIVERIES = 5


@dataclass(frozen=True)
class Bury:
    """Give up, for this reason."""

    reason: Literal["attempts_exhausted", "invalid", "expired", "permanent_error"]


@dataclass(frozen=True)
class Retry:
    """Try again after this delay."""

    delay_s: float


def before_attempt(job: Job, delivered: int, errors: list[JobError], now: datetime) -> Bury | None:
    """Whether a delivered job should not be run at all.

    Deliveries that ended without an error (a worker died or drained) count apart: a few are
    normal, more mean that the job kills its workers.
    """
    if now > job.submitted_at + timedelta(seconds=job.ttl_s):
        return Bury("expired")
    if len(errors) >= job.max_attempts or delivered > job.max_attempts + SILENT_DELIVERIES:
        return Bury("attempts_exhausted")
    return None


def after_error(job: Job, error: BaseException, failed_attempts: int) -> Bury | Retry:
    """Whether a failed job gets another attempt; `failed_attempts` counts this one."""
    if isinstance(error, AutopilotError) and not error.retryable:
        return Bury("permanent_error")
    if failed_attempts >= job.max_attempts:
        return Bury("attempts_exhausted")
    return Retry(BACKOFF_S[min(failed_attempts, len(BACKOFF_S)) - 1])

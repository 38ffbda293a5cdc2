"""Jobs, what becomes of them, and the pools that run them."""

from __future__ import annotations

from typing import Any, Literal, get_args

from pydantic import Field

from shared.messages.base import Message, Name, Timestamp

Priority = Literal["high", "normal", "low"]
PRIORITIES: tuple[Priority, ...] = get_args(Priority)
JobStatus = Literal["succeeded", "failed", "cancelled"]


class JobBody(Message):
    """A job as any publisher may write it; kind, priority and id can come from the subject instead."""

    id: Name | None = None
    kind: Name | None = None
    priority: Priority | None = None
    payload: dict[str, Any] = {}
    payload_ref: str | None = None
    submitter: str = "anonymous"
    submitted_at: Timestamp | None = None
    ttl_s: float = Field(default=86_400.0, gt=0)
    max_attempts: int = Field(default=3, ge=1, le=20)


class Job(JobBody):
    """A job with everything filled in."""

    id: Name
    kind: Name
    priority: Priority
    submitted_at: Timestamp


class JobError(Message):
    """One failed attempt."""

    attempt: int
    type: str
    message: str = Field(max_length=4000)
    worker: str
    at: Timestamp


class JobResult(Message):
    """The one visible end of a job."""

    job_id: Name
    kind: Name
    status: JobStatus
    output: Any = None
    output_ref: str | None = None
    errors: list[JobError] = []
    worker: str = ""
    device: str = ""
    node: str = ""
    attempt: int = 1
    submitted_at: Timestamp
    started_at: Timestamp | None = None
    finished_at: Timestamp


class JobProgress(Message):
    """How far a job is; partial output where the kind gives one."""

    job_id: Name
    state: Literal["running", "retrying"]
    fraction: float | None = Field(default=None, ge=0, le=1)
    partial: Any = None
    attempt: int = 1
    at: Timestamp


class DeadJob(Message):
    """A job that cannot succeed: the job as it came and every attempt's error."""

    id: Name
    kind: str
    reason: Literal["attempts_exhausted", "invalid", "expired", "permanent_error"]
    job: Job | None = None
    raw: str = Field(default="", description="what was received, when it is no job at all; truncated")
    errors: list[JobError] = []
    subject: str
    at: Timestamp


class JobState(Message):
    """What is kept of a job between attempts; KV `jobs`, key = job id."""

    cancelled: bool = False
    errors: list[JobError] = []


class WorkerStatus(Message):
    """One worker process as its pool sees it."""

    worker: Name
    device: Name
    pid: int
    state: Literal["starting", "ready", "draining"]
    started_at: Timestamp
    jobs_done: int = 0
    jobs_failed: int = 0
    busy_s: float = 0.0
    running: list[str] = Field(default=[], max_length=64)


class PoolStatus(Message):
    """A pool on one node; KV `pools`, key `<pool>.<node>`, refreshed every second."""

    pool: Name
    node: Name
    at: Timestamp
    desired: int
    kinds: list[str]
    workers: list[WorkerStatus]
    cordoned: list[str] = []
    restarts: int = 0

"""Jobs, what becomes of them, and the pools that run them."""

from __future__ import annotations

from typing import Any, Literal, get_args

from pydantic import Field

from shared.messages.base import Message, Name, Timestamp

Priority = Literal["high", "normal", "low"]
PRIORITIES: tuple[Priority, ...] = get_args(Priority)
JobStatus = Literal["succeeded", "failed", "cancelled"]
DeadReason = Literal[
    "attempts_exhausted", "invalid", "expired", "permanent_error", "nobody_can_run", "dependency_failed"
]


class JobNeeds(Message):
    """What a job asks of the worker that runs it."""

    model: str | None = Field(default=None, max_length=500, description="a model that its pool offers")
    device: Literal["cpu", "gpu"] | None = None
    memory_bytes: int | None = Field(default=None, ge=0, description="memory of the device in all")
    devices: int = Field(default=1, ge=1, le=64, description="devices of one worker")


class JobUsage(Message):
    """What a job took."""

    wait_s: float = Field(default=0.0, ge=0, description="from submission to start")
    run_s: float = Field(default=0.0, ge=0, description="of its batch on the device")
    batch_size: int = Field(default=1, ge=1)
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class JobBody(Message):
    """A job as any publisher may write it; kind, priority and id can come from the subject instead."""

    id: Name | None = None
    kind: Name | None = None
    priority: Priority | None = None
    payload: dict[str, Any] = {}
    payload_ref: str | None = None
    submitter: str = "anonymous"
    submitted_at: Timestamp | None = None
    ttl_s: float = Field(default=86_400.0, gt=0, description="it must have begun by then, counted from submission")
    deadline_at: Timestamp | None = Field(default=None, description="it must have begun by then; the earliest first")
    result_ttl_s: float = Field(default=86_400.0, ge=1, le=604_800, description="its result is kept so long")
    max_attempts: int = Field(default=3, ge=1, le=20)
    after: list[Name] = Field(default=[], max_length=1000, description="jobs that must have succeeded before")
    not_before: Timestamp | None = None
    needs: JobNeeds | None = None


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
    submitter: str = ""
    attempt: int = 1
    usage: JobUsage | None = None
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
    reason: DeadReason
    job: Job | None = None
    raw: str = Field(default="", description="what was received, when it is no job at all; truncated")
    errors: list[JobError] = []
    subject: str
    at: Timestamp


class JobState(Message):
    """What is kept of a job between attempts; KV `jobs`, key = job id."""

    cancelled: bool = False
    errors: list[JobError] = []


class Batch(Message):
    """Many jobs under one handle; KV `batches`, key = its id. Its jobs are `<id>.0` to `<id>.<count - 1>`."""

    id: Name
    kind: Name
    count: int = Field(ge=0)
    submitter: str = "anonymous"
    submitted_at: Timestamp


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
    models: list[str] = Field(default=[], description="models in its memory")
    memory_bytes: int | None = Field(default=None, description="memory of its devices")
    devices: int = 1
    accelerator: Literal["cpu", "gpu"] = "cpu"
    share: float = Field(default=1.0, ge=0, le=1, description="of its batch size that its device's state allows")
    together: int = Field(default=1, ge=1, description="jobs that it can take into one batch")


class PoolStatus(Message):
    """A pool on one node; KV `pools`, key `<pool>.<node>`, refreshed every second."""

    pool: Name
    node: Name
    at: Timestamp
    desired: int
    kinds: list[str]
    models: list[str] = Field(default=[], description="models that it can load")
    workers: list[WorkerStatus]
    cordoned: list[str] = []
    restarts: int = 0

"""Jobs, their results, and the pools that run them."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, get_args

from pydantic import Field

from accelerator_autopilot.contracts.messages.base import BigCount, Count, Label, Message, Name, OwnedMessage, Timestamp
from accelerator_autopilot.contracts.projects import job_reference

Priority = Literal["high", "normal", "low"]
PRIORITIES: tuple[Priority, ...] = get_args(Priority)
MOST_TTL_S = 366 * 86_400.0
JobStatus = Literal["succeeded", "failed", "cancelled"]
DeadReason = Literal[
    "attempts_exhausted", "invalid", "expired", "permanent_error", "nobody_can_run", "dependency_failed"
]


class JobNeeds(Message):
    """What a job requires of the worker that runs it."""

    model: str | None = Field(default=None, max_length=500, description="model that the pool must offer")
    device: Literal["cpu", "gpu"] | None = None
    memory_bytes: BigCount | None = Field(default=None, description="total memory that the device must have")
    devices: int = Field(default=1, ge=1, le=64, description="devices that the worker must have")
    pool: Name | None = Field(default=None, description="pool that must run the job")


class JobUsage(Message):
    """Time and tokens that a job used."""

    wait_s: float = Field(default=0.0, ge=0, description="time from submission to start")
    run_s: float = Field(default=0.0, ge=0, description="time that its batch ran on the device")
    batch_size: int = Field(default=1, ge=1, lt=2**31)
    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None


class JobBody(OwnedMessage):
    """A job as a publisher writes it. Kind, priority and id may come from the subject instead."""

    ACTOR_FIELD: ClassVar[str] = "submitter"

    id: Name | None = None
    kind: Name | None = None
    priority: Priority | None = None
    payload: dict[str, Any] = {}
    payload_ref: Label | None = None
    submitter: Label = "anonymous"
    submitted_at: Timestamp | None = None
    ttl_s: float = Field(
        default=86_400.0, gt=0, le=MOST_TTL_S, description="time after submission by which it must have started"
    )
    deadline_at: Timestamp | None = Field(
        default=None, description="time by which it must have started; jobs run earliest deadline first"
    )
    result_ttl_s: float = Field(default=86_400.0, ge=1, le=604_800, description="time for which the result is kept")
    max_attempts: int = Field(default=3, ge=1, le=20)
    timeout_s: float | None = Field(
        default=None,
        ge=1,
        le=MOST_TTL_S,
        description="time that one attempt may run",
    )
    after: list[Name] = Field(default=[], max_length=1000, description="ids of jobs that must have succeeded first")
    not_before: Timestamp | None = None
    needs: JobNeeds | None = None
    fingerprint: Label = Field(default="", description="digest of kind and payload, for jobs with an id of their own")


class Job(JobBody):
    """A job with all defaults filled in."""

    id: Name
    kind: Name
    priority: Priority
    submitted_at: Timestamp

    @property
    def reference(self) -> str:
        """What tells it from the jobs of all projects."""
        return job_reference(self.id, self.project)


class JobError(Message):
    """One failed attempt."""

    attempt: Count
    type: Label
    message: str = Field(max_length=4000)
    worker: Label
    at: Timestamp
    device: Label = Field(default="", description="where it ran, as <node>/<device>; empty if not known")


class JobResult(OwnedMessage):
    """The final result of a job. Each job has exactly one."""

    ACTOR_FIELD: ClassVar[str] = "submitter"

    job_id: Name
    kind: Name
    status: JobStatus
    output: Any = None
    output_ref: Label | None = None
    errors: list[JobError] = Field(default=[], max_length=1000)
    worker: Label = ""
    device: Label = ""
    node: Label = ""
    submitter: Label = ""
    attempt: Count = 1
    usage: JobUsage | None = None
    fingerprint: Label = Field(default="", description="that of the job")
    submitted_at: Timestamp
    started_at: Timestamp | None = None
    finished_at: Timestamp


class JobProgress(OwnedMessage):
    """The progress of a job, with partial output if its kind provides any."""

    DEFAULT_ACTOR: ClassVar[str] = "worker"

    job_id: Name
    state: Literal["running", "retrying"]
    fraction: float | None = Field(default=None, ge=0, le=1)
    partial: Any = None
    attempt: Count = 1
    at: Timestamp


class DeadJob(OwnedMessage):
    """A job that cannot succeed: the job as received and the error of each attempt."""

    id: Name
    kind: Label
    reason: DeadReason
    job: Job | None = None
    raw: str = Field(default="", description="the message received, if it is not a valid job; truncated")
    errors: list[JobError] = Field(default=[], max_length=1000)
    subject: str = Field(max_length=4096)
    at: Timestamp


class JobState(OwnedMessage):
    """What is kept of a job between attempts; KV `jobs`, key = job id."""

    cancelled: bool = False
    errors: list[JobError] = Field(default=[], max_length=1000)
    kills: Count = Field(default=0, description="workers that died or hung while they ran this job alone")
    alone: bool = Field(default=False, description="run it alone, because a batch that included it did not finish")
    at: Timestamp | None = Field(default=None, description="when this was written")


class Batch(OwnedMessage):
    """Many jobs submitted together; KV `batches`, key = its id. Its jobs are `<id>.0` to `<id>.<count - 1>`."""

    ACTOR_FIELD: ClassVar[str] = "submitter"

    id: Name
    kind: Name
    count: Count
    submitter: Label = "anonymous"
    submitted_at: Timestamp
    fingerprint: Label = Field(default="", description="digest of its kind and inputs")
    published: bool = Field(
        default=False, description="whether all its jobs were stored; a job that cannot be found has then expired"
    )


class WorkerStatus(Message):
    """The state of one worker process."""

    worker: Name
    device: Name
    pid: Count
    state: Literal["starting", "ready", "draining"]
    started_at: Timestamp
    jobs_done: BigCount = 0
    jobs_failed: BigCount = 0
    busy_s: float = Field(default=0.0, ge=0)
    running: list[Name] = Field(
        default=[], max_length=64, description="ids of its jobs; `<project>/<id>` outside the project `default`"
    )
    models: list[Label] = Field(default=[], max_length=1000, description="models in its memory")
    memory_bytes: BigCount | None = Field(default=None, description="memory of its devices")
    devices: Count = 1
    accelerator: Literal["cpu", "gpu"] = "cpu"
    share: float = Field(default=1.0, ge=0, le=1, description="share of the batch size that the device's state allows")
    together: int = Field(default=1, ge=1, lt=2**31, description="most jobs in one batch")
    done_by_kind: dict[Name, BigCount] = Field(default={}, max_length=1000, description="jobs that succeeded, by kind")
    poison: BigCount = Field(default=0, description="messages that the worker could not handle")
    after_failing_on: dict[Label, BigCount] = Field(
        default={},
        max_length=1000,
        description="jobs that succeeded here after failing elsewhere, by the <node>/<device> where they failed",
    )


class PoolStatus(OwnedMessage):
    """A pool on one node; KV `pools`, key `<pool>.<node>`, refreshed every two seconds and when it changes."""

    DEFAULT_ACTOR: ClassVar[str] = "pool"

    pool: Name
    node: Name
    at: Timestamp
    desired: int = Field(ge=0, le=10_000)
    kinds: list[Name] = Field(max_length=1000)
    models: list[Label] = Field(default=[], max_length=1000, description="models that the pool can load")
    workers: list[WorkerStatus] = Field(max_length=10_000)
    cordoned: list[Name] = Field(default=[], max_length=10_000)
    restarts: BigCount = 0
    stuck: list[Name] = Field(default=[], max_length=10_000, description="devices whose worker hung")
    suspected: list[Name] = Field(
        default=[], max_length=10_000, description="devices suspected because jobs fail on them"
    )
    set_aside: dict[Name, Label] = Field(
        default={}, max_length=10_000, description="devices cordoned by the pool itself, with the reason"
    )

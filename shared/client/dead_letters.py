"""Dead letters: jobs that could not succeed, which can be replayed, and quarantined messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nats.js import JetStreamContext

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.errors import NotFoundError
from accelerator_autopilot.contracts.ids import derived_id
from accelerator_autopilot.contracts.messages.jobs import DeadJob
from accelerator_autopilot.contracts.messages.poison import PoisonMessage
from accelerator_autopilot.contracts.projects import DEFAULT_PROJECT
from accelerator_autopilot.transport.clock import utc_now
from accelerator_autopilot.transport.direct_reads import last_messages

if TYPE_CHECKING:
    from accelerator_autopilot.client.jobs import JobHandle, Jobs

NEWEST = 1000


class DeadJobs:
    """The dead letters of the last thirty days, and messages quarantined within the last seven."""

    def __init__(self, js: JetStreamContext, jobs: Jobs, project: str = DEFAULT_PROJECT) -> None:
        self._js, self._jobs, self._project = js, jobs, project

    async def put_aside(self, limit: int = 50) -> list[PoisonMessage]:
        """Return the newest quarantined messages, newest first; `body_base64` is their content."""
        return (await last_messages(self._js, "POISON", subjects.POISON, PoisonMessage, limit=limit))[::-1]

    async def list(self, kind: str | None = None, limit: int = 50) -> list[DeadJob]:
        """Return the newest dead letters, newest first."""
        subject = subjects.in_project(self._project, subjects.dead(kind) if kind else subjects.DEAD)
        return (await last_messages(self._js, "DEAD", subject, DeadJob, limit=limit))[::-1]

    async def replay(self, job_id: str) -> JobHandle:
        """Submit a dead job again, as a new job; replaying it twice yields the same new job.

        Raises NotFoundError when it is unknown, was not a job at all, or its payload has expired.
        """
        dead = next((d for d in await self.list(limit=NEWEST) if d.id == job_id), None)
        if dead is None or dead.job is None:
            raise NotFoundError(f"job {job_id} is not among the newest {NEWEST} dead jobs")
        payload = await self._jobs.load(dead.job)
        needs = dead.job.needs.model_dump() if dead.job.needs else None
        return await self._jobs.submit(
            dead.kind,
            payload,
            job_id=derived_id(job_id, dead.at.isoformat()),
            submitter=dead.job.submitter,
            priority=dead.job.priority,
            ttl_s=dead.job.ttl_s,
            result_ttl_s=dead.job.result_ttl_s,
            max_attempts=dead.job.max_attempts,
            timeout_s=dead.job.timeout_s,
            needs=needs,
            after=[d for d in dead.job.after if d != job_id] if dead.reason != "dependency_failed" else [],
            deadline_at=dead.job.deadline_at if dead.job.deadline_at and dead.job.deadline_at > utc_now() else None,
        )

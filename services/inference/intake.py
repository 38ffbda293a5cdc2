"""From a delivered message to an input that is ready to run, or to whatever else becomes of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from nats.aio.msg import Msg
from nats.js import JetStreamContext
from pydantic import ValidationError

from services.inference.domain.capability import Capability, nobody
from services.inference.domain.retry import Bury, before_attempt
from services.inference.errors import CannotRunError
from services.inference.kinds.base import Input
from services.inference.outcomes import JobOutcomes, Taken
from services.inference.worker_state import WorkerState
from shared import subjects
from shared.clock import utc_now
from shared.errors import AutopilotError, UnavailableError
from shared.jobs import MESSAGE_ID, address
from shared.messages.jobs import Job, JobBody, PoolStatus

ELSEWHERE_S = 1.0


@dataclass
class Intake:
    """Prepares the jobs of one kind."""

    kind: str
    model: type[Input]
    js: JetStreamContext
    outcomes: JobOutcomes
    state: WorkerState
    capability: Capability
    pools: Callable[[], Awaitable[list[PoolStatus]]]

    async def prepare(self, message: Msg) -> tuple[Taken, Any] | None:
        """The job with its validated input; None when it has been dealt with otherwise."""
        try:
            job = read_job(message)
        except (ValidationError, UnicodeError, ValueError):
            await self.outcomes.bury_unreadable(message)
            return None
        taken = Taken(message, job, message.metadata.num_delivered)
        if taken.delivered > 1 or job.id in self.state.cancelled:
            kept = await self.outcomes.recall(job.id)
            taken.errors, taken.cancelled = list(kept.errors), kept.cancelled
        if taken.cancelled:
            await message.ack()
            return None
        verdict = before_attempt(job, taken.delivered, taken.errors, utc_now())
        if verdict is not None:
            await self.outcomes.bury(taken, verdict)
            return None
        if await self._not_yet(taken) or await self._not_here(taken):
            return None
        try:
            return taken, self.model.model_validate(await self.outcomes.payload(job))
        except UnavailableError:
            raise
        except (ValidationError, AutopilotError) as error:
            self.outcomes.note(taken, error)
            await self.outcomes.bury(taken, Bury("invalid"))
            return None

    async def _not_yet(self, taken: Taken) -> bool:
        """Send a job that waits for others or for its time to where such jobs wait."""
        job, now = taken.job, utc_now()
        known = {other: await self.outcomes.status_of(other) for other in job.after}
        failed = [other for other, status in known.items() if status not in {None, "succeeded"}]
        if failed:
            self.outcomes.note(taken, CannotRunError(f"job {failed[0]} {known[failed[0]]}"))
            await self.outcomes.bury(taken, Bury("dependency_failed"))
            return True
        left = [other for other, status in known.items() if status is None]
        if not left and (job.not_before is None or job.not_before <= now):
            return False
        stream, subject, headers = address(job.model_copy(update={"after": left}), now)
        # It may have been there before, and must not be taken for its own repetition.
        headers.pop(MESSAGE_ID)
        await self.js.publish(subject, job.model_dump_json(exclude_none=True).encode(), headers=headers, stream=stream)
        await taken.message.ack()
        return True

    async def _not_here(self, taken: Taken) -> bool:
        """Hand on a job that needs another worker; give it up when there is none."""
        lack = self.capability.lacks(taken.job.needs)
        if lack is None:
            return False
        reason = nobody(await self.pools(), self.kind, taken.job.needs)
        if reason is None:
            await taken.message.nak(delay=ELSEWHERE_S)
        else:
            self.outcomes.note(taken, CannotRunError(reason))
            await self.outcomes.bury(taken, Bury("nobody_can_run"))
        return True


def read_job(message: Msg) -> Job:
    """A job from its message; what the body leaves out comes from the subject and the stream.

    Raises ValidationError, or ValueError when body and subject contradict each other.
    """
    body = JobBody.model_validate_json(message.data)
    _, kind, priority, *rest = message.subject.split(".")
    kind = subjects.untoken(kind)
    if body.kind not in (None, kind):
        raise ValueError(f"kind={body.kind!r}: must be the subject's {kind!r}")
    metadata = message.metadata
    identity = subjects.job_id(rest) if rest else body.id or f"seq-{metadata.sequence.stream}"
    fields = body.model_dump(exclude_none=True)
    return Job.model_validate(
        fields
        | {
            "id": identity,
            "kind": kind,
            "priority": subjects.untoken(priority),
            "submitted_at": body.submitted_at or metadata.timestamp,
        }
    )

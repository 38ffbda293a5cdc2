"""Prepare a delivered message for running, or handle it otherwise."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from nats.aio.msg import Msg
from pydantic import ValidationError

from accelerator_autopilot.contracts.errors import AutopilotError, InvalidInputError, UnavailableError
from accelerator_autopilot.contracts.job_building import MESSAGE_ID, address
from accelerator_autopilot.contracts.kinds.base import Input
from accelerator_autopilot.contracts.messages.jobs import Job, PoolStatus
from accelerator_autopilot.inference.errors import CannotRunError
from accelerator_autopilot.inference.jobs.capability import Capability, unschedulable_reason
from accelerator_autopilot.inference.jobs.completion import ClaimedJob, JobCompletion
from accelerator_autopilot.inference.jobs.decoding import read_job
from accelerator_autopilot.inference.jobs.retry_policy import EndJob, Places, before_attempt
from accelerator_autopilot.inference.worker.application.worker_state import WorkerState
from accelerator_autopilot.runtime.bus import BUS_ERRORS
from accelerator_autopilot.transport.clock import utc_now

# A job for another worker is redelivered every second at first, then less and less often.
FORWARD_DELAY_S, MAX_FORWARD_DELAY_S = 1.0, 10.0
POOL_GONE_S = 15.0


@dataclass
class JobAdmission:
    """Prepares the jobs of one kind."""

    kind: str
    model: type[Input]
    outcomes: JobCompletion
    state: WorkerState
    capability: Capability
    pools: Callable[[], Awaitable[list[PoolStatus]]]
    here: str

    async def prepare(self, message: Msg) -> tuple[ClaimedJob, Any] | None:
        """Return the job with its validated input; None when it was handled otherwise."""
        try:
            metadata = message.metadata
            job = read_job(message.subject, message.data, metadata.sequence.stream, metadata.timestamp)
        except (ValidationError, UnicodeError, InvalidInputError, ValueError) as error:
            await self.outcomes.dead_letter_unreadable(message, error)
            return None
        taken = ClaimedJob(message, job, message.metadata.num_delivered)
        if await self._over(taken) or await self._not_yet(taken) or await self._not_here(taken):
            return None
        try:
            return taken, await self._input(job)
        except UnavailableError as error:
            # Retried later, like any transient error; the batch continues without it.
            await self.outcomes.fail(taken, error)
        except RecursionError:
            self.outcomes.note(taken, InvalidInputError("payload", self.kind, "is nested too deeply"))
            await self.outcomes.dead_letter(taken, EndJob("invalid"))
        except (ValidationError, AutopilotError) as error:
            self.outcomes.note(taken, error)
            await self.outcomes.dead_letter(taken, EndJob("invalid"))
        return None

    async def places(self) -> Places | None:
        """Return where else jobs of this kind run; None while that cannot be read."""
        try:
            pools = [p for p in await self.pools() if (utc_now() - p.at).total_seconds() < POOL_GONE_S]
        except BUS_ERRORS:
            return None
        pools = [p for p in pools if self.kind in p.kinds]
        used = {f"{p.node}/{w.device}" for p in pools for w in p.workers}
        suspected = {f"{p.node}/{d}" for p in pools for d in (*p.suspected, *p.set_aside)}
        if used <= suspected:
            # Where all devices fail alike it is the job.
            suspected = set()
        return Places(len(used - suspected - {self.here}), frozenset(suspected))

    async def _input(self, job: Job) -> Input:
        """Validate the input; a large one outside of the event loop."""
        payload = await self.outcomes.payload(job)
        if job.payload_ref or job.after:
            return await asyncio.to_thread(self.model.model_validate, payload)
        return self.model.model_validate(payload)

    async def _over(self, taken: ClaimedJob) -> bool:
        """Whether a job has ended already, or ends here before it has started."""
        job, message = taken.job, taken.message
        # Whoever publishes without a message id may have published it twice.
        again = taken.delivered > 1 or MESSAGE_ID not in (message.headers or {})
        if again and await self.outcomes.status_of(job.id, job.project) is not None:
            await message.ack()
            return True
        if taken.delivered > 1 or self.state.is_cancelled(taken):
            kept = await self.outcomes.read_record(taken)
            taken.errors, taken.cancelled = list(kept.errors), kept.cancelled
            taken.alone, taken.kills = kept.alone or kept.kills > 0, kept.kills
        if taken.cancelled:
            await self.outcomes.cancel(taken)
            return True
        places = await self.places() if taken.errors else None
        verdict = before_attempt(job, taken.delivered, taken.errors, utc_now(), kills=taken.kills, places=places)
        if verdict is not None:
            await self.outcomes.dead_letter(taken, verdict)
        return verdict is not None

    async def _not_yet(self, taken: ClaimedJob) -> bool:
        """Move a job that waits for others, or for its start time, to the stream of such jobs."""
        job, now = taken.job, utc_now()
        known = {other: await self.outcomes.status_of(other, job.project) for other in job.after}
        failed = [other for other, status in known.items() if status not in {None, "succeeded"}]
        if failed:
            self.outcomes.note(taken, CannotRunError(f"job {failed[0]} {known[failed[0]]}"))
            await self.outcomes.dead_letter(taken, EndJob("dependency_failed"))
            return True
        left = [other for other, status in known.items() if status is None]
        if not left and (job.not_before is None or job.not_before <= now):
            return False
        stream, subject, headers = address(job.model_copy(update={"after": left}), now)
        # Drop the deduplication id: the stream may have seen this job before.
        headers.pop(MESSAGE_ID)
        body = job.model_dump_json(exclude_none=True).encode()
        await self.outcomes.forward(taken.message, stream, subject, headers, body)
        return True

    async def _not_here(self, taken: ClaimedJob) -> bool:
        """Forward a job that needs another worker; give it up when there is none."""
        lack = self.capability.lacks(taken.job.needs)
        if lack is None:
            return False
        reason = unschedulable_reason(await self.pools(), self.kind, taken.job.needs)
        if reason is None:
            await taken.message.nak(delay=min(MAX_FORWARD_DELAY_S, FORWARD_DELAY_S * (1 + taken.delivered / 60)))
        else:
            self.outcomes.note(taken, CannotRunError(reason))
            await self.outcomes.dead_letter(taken, EndJob("nobody_can_run"))
        return True

"""Find jobs in the queue that no worker will take, and end them with the reason.

A job is unschedulable by its subject (no pool runs its kind, or its priority does not exist) or by its time (no worker
took it before it expired). Every job that the stream confirmed ends with exactly one result; none is left to the
stream's maximum age.
"""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

from nats.js import JetStreamContext
from nats.js.api import RawStreamMsg
from nats.js.errors import NotFoundError
from pydantic import ValidationError

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.messages.jobs import PRIORITIES, DeadReason, Job, PoolStatus
from accelerator_autopilot.contracts.streams import DAY_S, JOB_AGE_S, job_durable
from accelerator_autopilot.inference.errors import CannotRunError
from accelerator_autopilot.inference.jobs.capability import nobody
from accelerator_autopilot.inference.jobs.dead_lettering import DeadLettering
from accelerator_autopilot.inference.jobs.decoding import read_job
from accelerator_autopilot.inference.jobs.retry_policy import expired_text, expires_at
from accelerator_autopilot.runtime.poison_messages import PoisonRule, may_pass
from accelerator_autopilot.transport.direct_reads import bucket_items, subjects_of

POOL_GONE_S = 15.0
# The most jobs ended, and the most checked for expiry, in one sweep.
ENDED = 2000
LOOKED_AT = 300
# A job whose time to live exceeds the stream's maximum age ends here.
LATEST_S = JOB_AGE_S + DAY_S / 2


class UnschedulableJobs:
    """Scans JOBS, a part at a time. Every method raises the errors of nats-py and UnavailableError."""

    def __init__(
        self, js: JetStreamContext, dead: DeadLettering, poison: PoisonRule, unrunnable_after_s: float
    ) -> None:
        self._js, self._dead, self._poison, self._after_s = js, dead, poison, unrunnable_after_s
        self._unmatched_since: dict[str, float] = {}
        self._next = 1

    async def sweep(self, now: datetime) -> int:
        """End what no worker will take; returns how many jobs."""
        pools = [
            pool
            for pool in (await bucket_items(self._js, "pools", PoolStatus)).values()
            if (now - pool.at).total_seconds() < POOL_GONE_S
        ]
        return await self._end_unmatched(pools, now) + await self._end_expired(pools, now)

    async def _end_unmatched(self, pools: list[PoolStatus], now: datetime) -> int:
        """End jobs that have matched no consumer for a while; a pool that is briefly away comes back."""
        queued = await subjects_of(self._js, "JOBS", "jobs.>")
        loop_s = asyncio.get_running_loop().time()
        found: dict[str, list[tuple[str, str]]] = {}
        for subject in queued:
            lack = _lack(subject, pools)
            if lack is not None:
                found.setdefault(".".join(subject.split(".")[1:3]), []).append((subject, lack))
        self._unmatched_since = {key: self._unmatched_since.get(key, loop_s) for key in found}
        ended = 0
        for key, entries in found.items():
            if loop_s - self._unmatched_since[key] < self._after_s:
                continue
            for subject, lack in entries:
                reason: DeadReason = "nobody_can_run" if subject.split(".")[2] in PRIORITIES else "invalid"
                ended += await self._end_all(subject, reason, lack, now)
                if ended >= ENDED:
                    return ended
        return ended

    async def _end_all(self, subject: str, reason: DeadReason, why: str, now: datetime) -> int:
        """End all jobs of a subject; publishers without an id share one, so there may be many."""
        ended, sequence = 0, 1
        while ended < ENDED:
            try:
                message = await self._js.get_msg("JOBS", seq=sequence, subject=subject, next=True, direct=True)
            except NotFoundError:
                return ended
            sequence = (message.seq or 0) + 1
            if now - (message.time or now) < timedelta(seconds=self._after_s):
                return ended
            kind = CannotRunError.__name__ if reason == "nobody_can_run" else "InvalidInputError"
            await self._end(message, reason, kind, why)
            ended += 1
        return ended

    async def _end_expired(self, pools: list[PoolStatus], now: datetime) -> int:
        """End expired jobs that no worker reached; a worker that takes an expired job ends it itself."""
        delivered: dict[str, int] = {}
        ended = 0
        for _ in range(LOOKED_AT):
            try:
                message = await self._js.get_msg("JOBS", seq=self._next, subject="jobs.>", next=True, direct=True)
            except NotFoundError:
                self._next = 1
                return ended
            self._next = (message.seq or 0) + 1
            why = _overdue(message, now)
            if why is None:
                continue
            kind, priority = (message.subject or "").split(".")[1:3]
            consumer = job_durable(subjects.untoken(kind), priority).durable_name or ""
            if consumer not in delivered:
                delivered[consumer] = await self._delivered(consumer)
            if (message.seq or 0) > delivered[consumer] or not _staffed(message.subject or "", pools):
                await self._end(message, "expired", "expired", f"{why}; no worker took it")
                ended += 1
        return ended

    async def _delivered(self, consumer: str) -> int:
        try:
            info = await self._js.consumer_info("JOBS", consumer)
        except NotFoundError:
            return 0
        return (info.delivered.stream_seq if info.delivered else 0) or 0

    async def _end(self, message: RawStreamMsg, reason: DeadReason, kind: str, why: str) -> None:
        sequence = message.seq or 0
        try:
            await self._bury(message, reason, kind, why)
        except Exception as error:
            if may_pass(error):
                raise
            # It stays and is checked again in the next sweep, so those behind it are not held up.
            self._poison.drop("undeliverable jobs", error)
            return
        await self._js.delete_msg("JOBS", sequence)

    async def _bury(self, message: RawStreamMsg, reason: DeadReason, kind: str, why: str) -> None:
        subject = message.subject or ""
        try:
            job = _read(message)
        except (ValidationError, ValueError) as error:
            stored_at = message.time or datetime.fromtimestamp(0).astimezone()
            await self._dead.bury_unreadable(subject, message.data or b"", message.seq or 0, stored_at, error)
        else:
            await self._dead.bury(job, reason, [self._dead.reason(kind, why)], subject)


def _read(message: RawStreamMsg) -> Job:
    """Parse a message; a job with an unknown priority is read as one of normal priority, to keep its input."""
    stage, kind, priority, *rest = (message.subject or "").split(".")
    priority = priority if priority in PRIORITIES else "normal"
    subject = ".".join((stage, kind, priority, *rest))
    body = message.data or b"{}"
    assert message.time is not None  # noqa: S101  the server always tells it
    return read_job(subject, body, message.seq or 0, message.time)


def _lack(subject: str, pools: list[PoolStatus]) -> str | None:
    """Return why no worker's consumer matches a subject; None when one does."""
    _, kind, priority, *_ = subject.split(".")
    if priority not in PRIORITIES:
        return f"priority: {subjects.untoken(priority)[:50]!r} is none of {', '.join(PRIORITIES)}"
    if any(kind == subjects.token(known) for pool in pools for known in pool.kinds):
        return None
    return nobody(pools, subjects.untoken(kind), None) or f"no pool runs kinds of the token {kind!r}"


def _staffed(subject: str, pools: list[PoolStatus]) -> bool:
    kind = subject.split(".")[1]
    return any(pool.workers for pool in pools if any(kind == subjects.token(known) for known in pool.kinds))


def _overdue(message: RawStreamMsg, now: datetime) -> str | None:
    """Return why a job has expired; None when it has not. Messages that are not jobs get the default time to live."""
    stored_at = message.time or now
    if now - stored_at > timedelta(seconds=LATEST_S):
        return f"it has been queued since {stored_at.isoformat(timespec='seconds')}, longer than jobs are kept"
    try:
        job = _read(message)
    except (ValidationError, ValueError):
        return "it has expired" if now - stored_at > timedelta(seconds=DAY_S) else None
    return expired_text(job) if now > expires_at(job) else None

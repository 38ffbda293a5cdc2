"""Find jobs in the queue that no worker will take, and end them with the reason.

A job is unschedulable by its subject (no pool runs its kind, or its priority does not exist) or by its time (no worker
took it before it expired). Every job that the stream confirmed ends with exactly one result; none is left to the
stream's maximum age.
"""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from itertools import chain

from nats.js import JetStreamContext
from nats.js.api import RawStreamMsg
from nats.js.errors import NotFoundError
from pydantic import ValidationError

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.errors import InvalidInputError
from accelerator_autopilot.contracts.messages.jobs import PRIORITIES, DeadReason, Job, PoolStatus
from accelerator_autopilot.contracts.streams import DAY_S, JOB_AGE_S, job_durable
from accelerator_autopilot.inference.errors import CannotRunError
from accelerator_autopilot.inference.jobs.capability import unschedulable_reason
from accelerator_autopilot.inference.jobs.dead_lettering import DeadLettering
from accelerator_autopilot.inference.jobs.decoding import read_job
from accelerator_autopilot.inference.jobs.retry_policy import expired_text, expires_at
from accelerator_autopilot.runtime.poison_messages import PoisonRule, may_pass
from accelerator_autopilot.transport.direct_reads import bucket_items, subjects_of

POOL_GONE_S = 15.0
# The most jobs ended, and the most checked for expiry, in one sweep.
ENDED = 2000
CHECKED_PER_SWEEP = 300
# How old the list of pools may be while jobs are ended, and how long one sweep may take.
POOLS_FRESH_S, MAX_SWEEP_S = 2.0, 20.0
# A job whose time to live exceeds the stream's maximum age ends here.
LATEST_S = JOB_AGE_S + DAY_S / 2


class UnschedulableJobs:
    """Scans JOBS, a part at a time. Every method raises the errors of nats-py and UnavailableError."""

    def __init__(
        self,
        js: JetStreamContext,
        dead: DeadLettering,
        poison: PoisonRule,
        unrunnable_after_s: float,
        own_pool: str = "",
    ) -> None:
        """`own_pool` is the key of this process's pool, which is known to be alive."""
        self._js, self._dead, self._poison, self._after_s = js, dead, poison, unrunnable_after_s
        self._own_pool = own_pool
        self._unmatched_since: dict[str, float] = {}
        self._next = 1

    async def sweep(self, now: datetime) -> int:
        """End what no worker will take; returns how many jobs."""
        pools = await self._pools(now)
        if pools is None:
            # The bucket is out of date, as it is for a while after a restart of the server.
            self._unmatched_since.clear()
            return 0
        return await self._end_unmatched(pools, now) + await self._end_expired(pools, now)

    async def _pools(self, now: datetime) -> list[PoolStatus] | None:
        """Return the pools that are alive; None when even this process's own does not seem to be."""
        found = await bucket_items(self._js, "pools", PoolStatus)
        alive = {key: pool for key, pool in found.items() if (now - pool.at).total_seconds() < POOL_GONE_S}
        return None if self._own_pool and self._own_pool not in alive else list(alive.values())

    async def _end_unmatched(self, pools: list[PoolStatus], now: datetime) -> int:
        """End jobs that have matched no consumer for a while; a pool that is briefly away comes back."""
        clock = asyncio.get_running_loop().time
        began_s = looked_s = clock()
        found: dict[str, list[str]] = {}
        for subject in await self._queued():
            if _lack(subject, pools) is not None:
                found.setdefault(".".join(_tokens(subject)[1:3]), []).append(subject)
        self._unmatched_since = {key: self._unmatched_since.get(key, began_s) for key in found}
        overdue = [names for key, names in found.items() if began_s - self._unmatched_since[key] >= self._after_s]
        ended = 0
        for subject in chain.from_iterable(overdue):
            if ended >= ENDED or clock() - began_s > MAX_SWEEP_S:
                break
            if clock() - looked_s > POOLS_FRESH_S:
                # Ending many jobs takes time, and a pool may be back by now.
                pools, looked_s = await self._pools(now + timedelta(seconds=clock() - began_s)) or [], clock()
                if not pools:
                    break
            lack = _lack(subject, pools)
            if lack is not None:
                reason: DeadReason = "nobody_can_run" if _tokens(subject)[2] in PRIORITIES else "invalid"
                ended += await self._end_all(subject, reason, lack, now)
        return ended

    async def _queued(self) -> list[str]:
        wildcards = subjects.in_any_project(subjects.ANY_QUEUED_JOB)
        return [name for wildcard in wildcards for name in await subjects_of(self._js, "JOBS", wildcard)]

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
        for _ in range(CHECKED_PER_SWEEP):
            try:
                message = await self._js.get_msg("JOBS", seq=self._next, subject=">", next=True, direct=True)
            except NotFoundError:
                self._next = 1
                return ended
            self._next = (message.seq or 0) + 1
            why = _overdue(message, now) if _tokens(message.subject or "")[0] == "jobs" else None
            if why is None:
                continue
            kind, priority = _tokens(message.subject or "")[1:3]
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
        except (ValidationError, InvalidInputError, ValueError) as error:
            stored_at = message.time or datetime.fromtimestamp(0).astimezone()
            await self._dead.dead_letter_unreadable(subject, message.data or b"", message.seq or 0, stored_at, error)
        else:
            await self._dead.dead_letter(job, reason, [self._dead.reason(kind, why)], subject)


def _tokens(subject: str) -> list[str]:
    return subjects.split_project(subject)[1].split(".")


def _read(message: RawStreamMsg) -> Job:
    """Parse a message; a job with an unknown priority is read as one of normal priority, to keep its input."""
    project, in_project = subjects.split_project(message.subject or "")
    stage, kind, priority, *rest = in_project.split(".")
    priority = priority if priority in PRIORITIES else "normal"
    subject = subjects.in_project(project, ".".join((stage, kind, priority, *rest)))
    body = message.data or b"{}"
    assert message.time is not None  # noqa: S101  the server always tells it
    return read_job(subject, body, message.seq or 0, message.time)


def _lack(subject: str, pools: list[PoolStatus]) -> str | None:
    """Return why no worker's consumer matches a subject; None when one does."""
    _, kind, priority, *_ = _tokens(subject)
    if priority not in PRIORITIES:
        return f"priority: {subjects.untoken(priority)[:50]!r} is none of {', '.join(PRIORITIES)}"
    if any(kind == subjects.token(known) for pool in pools for known in pool.kinds):
        return None
    return unschedulable_reason(pools, subjects.untoken(kind), None) or f"no pool runs kinds of the token {kind!r}"


def _staffed(subject: str, pools: list[PoolStatus]) -> bool:
    kind = _tokens(subject)[1]
    return any(pool.workers for pool in pools if any(kind == subjects.token(known) for known in pool.kinds))


def _overdue(message: RawStreamMsg, now: datetime) -> str | None:
    """Return why a job has expired; None when it has not. Messages that are not jobs get the default time to live."""
    stored_at = message.time or now
    if now - stored_at > timedelta(seconds=LATEST_S):
        return f"it has been queued since {stored_at.isoformat(timespec='seconds')}, longer than jobs are kept"
    try:
        job = _read(message)
    except (ValidationError, InvalidInputError, ValueError):
        return "its time is over" if now - stored_at > timedelta(seconds=DAY_S) else None
    return expired_text(job) if now > expires_at(job) else None

"""One job per id, for as long as the job or its result exists: submitters with their own ids claim them first.

A claim is a key that one submitter creates, with a digest of kind and payload. It lasts until the job is surely stored;
from then on the job and its result carry the digest themselves, so that the server remembers nothing more of an id than
its job.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

from nats.js import JetStreamContext
from nats.js.api import Header
from nats.js.errors import APIError, KeyNotFoundError, KeyWrongLastSequenceError, NotFoundError
from nats.js.kv import KeyValue
from pydantic import AwareDatetime, BaseModel, ValidationError

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.errors import ConflictError, UnavailableError
from accelerator_autopilot.contracts.messages.base import OwnedMessage
from accelerator_autopilot.contracts.projects import DEFAULT_PROJECT
from accelerator_autopilot.transport.clock import utc_now
from accelerator_autopilot.transport.direct_reads import subjects_of
from accelerator_autopilot.transport.result_publishing import BUS_ERRORS, not_stored

BUCKET = "claims"
# Whoever created a claim has published by then, or has died; until then others wait.
SETTLE_S = 6.0
CHECK_INTERVAL_S = 0.1
# Longer than any submission goes on trying.
CLAIM_S = 120.0
WRONG_SEQUENCE = {10071, 10164}


_Stage = tuple[str, Callable[[str, str], str]]
_STAGES: tuple[_Stage, ...] = (
    ("LATER", subjects.later),
    ("LATER", subjects.due),
    ("JOBS", subjects.waiting),
    ("JOBS", subjects.any_job),
    ("RESULTS", subjects.result),
)


def first(job_id: str, project: str = DEFAULT_PROJECT) -> dict[str, str]:
    """Return headers that make JOBS reject a job (WRONG_SEQUENCE) while one with its id is queued."""
    return {
        Header.EXPECTED_LAST_SUBJECT_SEQUENCE.value: "0",
        "Nats-Expected-Last-Subject-Sequence-Subject": subjects.any_job(job_id, project),
    }


class _Stored(BaseModel):
    """The part of a stored job or result that says what the job does."""

    fingerprint: str = ""


class _Claim(OwnedMessage):
    fingerprint: str
    at: AwareDatetime


def fingerprint(kind: str, payloads: dict[str, Any] | Sequence[dict[str, Any]]) -> str:
    """Return a digest of what is to be done; priority and retention do not count."""
    text = json.dumps([kind, payloads], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


class Claims:
    """Claims ids. Every method raises UnavailableError while the broker is unreachable."""

    def __init__(self, js: JetStreamContext, project: str = DEFAULT_PROJECT) -> None:
        self._js, self._project = js, project
        self._kv: KeyValue | None = None

    async def claim(self, job_id: str, digest: str) -> int | None:
        """Return the claim's revision when the job should be published now; None when it exists already.

        Raises ConflictError when another job has this id.
        """
        try:
            while True:
                # Where a lagging replica lacks a result, the worker detects it.
                revision, result = await asyncio.gather(
                    self._create(job_id, digest), self._stored(job_id, stages=_STAGES[4:], direct=True)
                )
                if revision is not None:
                    # The stream checks for a queued job when this one is published (`first`).
                    if result is not None:
                        _compare(job_id, result, digest)
                        return None
                    return revision
                revision, known = await self._read(job_id)
                if (stored := await self._stored(job_id)) is not None:
                    _compare(job_id, stored or (known.fingerprint if known else ""), digest)
                    return None
                if known is not None and utc_now() - known.at < timedelta(seconds=SETTLE_S):
                    await asyncio.sleep(CHECK_INTERVAL_S)
                elif revision and (taken := await self._take_over(job_id, digest, revision)):
                    return taken
        except BUS_ERRORS as error:
            raise not_stored(f"the claim of job {job_id}", error) from error

    async def is_there(self, job_id: str, digest: str) -> bool:
        """Whether the job waits, runs or has a result. Raises ConflictError when a different job has its id."""
        stored = await self._stored(job_id)
        if stored is not None:
            _compare(job_id, stored, digest)
        return stored is not None

    async def release(self, job_id: str) -> None:
        """Release a claim under which nothing was published.

        If the broker is unreachable, the claim expires by itself.
        """
        with suppress(*BUS_ERRORS):
            await (await self._bucket()).purge(self._key(job_id), msg_ttl=60)

    async def exists(self, job_id: str) -> bool:
        """Whether a job waits, runs or has a result."""
        return await self._stored(job_id) is not None

    async def _stored(self, job_id: str, stages: Sequence[_Stage] = _STAGES, *, direct: bool = False) -> str | None:
        """Return the fingerprint of a job that waits, runs or has a result, empty if unknown; None without a job.

        Checked in the order in which jobs move, so that none is missed.
        """
        for stream, subject in stages:
            with suppress(NotFoundError):
                found = await self._js.get_last_msg(stream, subject(job_id, self._project), direct=direct)
                return _fingerprint_in(found.data or b"")
        return None

    def _key(self, job_id: str) -> str:
        return subjects.job_key(job_id, self._project)

    def _body(self, digest: str) -> bytes:
        return _Claim(fingerprint=digest, at=utc_now(), project=self._project).model_dump_json().encode()

    async def waits(self, job_id: str) -> bool:
        """Whether it waits or runs, perhaps without an id in its subject. Raises nats-py errors."""
        # Most jobs are in the queue, so one read suffices. The second pass finds a job that moved during the first.
        for stages in (_STAGES[3:4], _STAGES[:4]):
            if await self._stored(job_id, stages) is not None:
                return True
        await asyncio.sleep(CHECK_INTERVAL_S)
        if await self._stored(job_id, _STAGES[:4]) is not None:
            return True
        return bool(await subjects_of(self._js, "JOBS", subjects.in_project(self._project, subjects.JOBS)))

    async def _bucket(self) -> KeyValue:
        # Requesting it each time would cost as much as the claim.
        if self._kv is None:
            self._kv = await self._js.key_value(BUCKET)
        return self._kv

    async def _create(self, job_id: str, digest: str) -> int | None:
        kv = await self._bucket()
        try:
            return await kv.create(self._key(job_id), self._body(digest), msg_ttl=CLAIM_S)
        except KeyWrongLastSequenceError:
            return None

    async def _read(self, job_id: str) -> tuple[int, _Claim | None]:
        """Return revision and claim; one that expired just now has no revision, and an unreadable one is replaced."""
        kv = await self._bucket()
        try:
            entry = await kv.get(self._key(job_id))
        except KeyNotFoundError:
            return 0, None
        try:
            return entry.revision or 0, _Claim.model_validate_json(entry.value or b"")
        except ValidationError:
            return entry.revision or 0, None

    async def _take_over(self, job_id: str, digest: str, revision: int) -> int | None:
        subject = f"$KV.{BUCKET}.{self._key(job_id)}"
        headers = {Header.EXPECTED_LAST_SUBJECT_SEQUENCE.value: str(revision)}
        try:
            return (await self._js.publish(subject, self._body(digest), headers=headers, msg_ttl=CLAIM_S)).seq
        except APIError as error:
            if error.err_code in WRONG_SEQUENCE:
                return None
            raise


def _fingerprint_in(body: bytes) -> str:
    try:
        return _Stored.model_validate_json(body).fingerprint
    except ValidationError:
        return ""


def _compare(job_id: str, stored: str, digest: str) -> None:
    """Raise ConflictError if two fingerprints differ; a job without one, as bare publishers send it, is the same."""
    if stored and stored != digest:
        raise ConflictError(f"job {job_id} already exists with another kind or payload: use another id or key")


async def tokens_of_batch(js: JetStreamContext, batch_id: str, project: str = DEFAULT_PROJECT) -> set[str]:
    """Return the last tokens of a batch's jobs that wait, run or have a result."""
    found: set[str] = set()
    for stream, subject in (
        *subjects.stages_of_batch(batch_id, project),
        ("RESULTS", subjects.results_of(batch_id, project)),
    ):
        try:
            names = await subjects_of(js, stream, subject)
        except BUS_ERRORS as error:
            raise UnavailableError(f"batch {batch_id} could not be looked up: {type(error).__name__}") from error
        found |= {name.rsplit(".", 1)[1] for name in names}
    return found

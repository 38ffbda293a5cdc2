"""One job an id, for as long as the job or its result exists: who submits under an id of their own claims it first.

A claim is a key that one submitter creates, with a digest of kind and payload. It outlives the job and its result, and
gives way once both are gone.
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
from accelerator_autopilot.transport.clock import utc_now
from accelerator_autopilot.transport.direct_reads import subjects_of
from accelerator_autopilot.transport.result_publishing import BUS_ERRORS, not_stored

BUCKET = "claims"
# Whoever made a claim has published by then, or has died; until then others wait.
SETTLE_S = 6.0
LOOK_EVERY_S = 0.1
WRONG_SEQUENCE = {10071, 10164}


_Stage = tuple[str, Callable[[str], str]]
_STAGES: tuple[_Stage, ...] = (
    ("LATER", subjects.later),
    ("LATER", subjects.due),
    ("JOBS", subjects.waiting),
    ("JOBS", subjects.any_job),
    ("RESULTS", subjects.result),
)


def first(job_id: str) -> dict[str, str]:
    """Headers with which JOBS refuses a job (WRONG_SEQUENCE) while one of its id is queued, whoever put it there."""
    return {
        Header.EXPECTED_LAST_SUBJECT_SEQUENCE.value: "0",
        "Nats-Expected-Last-Subject-Sequence-Subject": subjects.any_job(job_id),
    }


class _Claim(BaseModel):
    fingerprint: str
    at: AwareDatetime


def fingerprint(kind: str, payloads: dict[str, Any] | Sequence[dict[str, Any]]) -> str:
    """A digest of what is to be done; how urgent it is and how long it is kept do not count."""
    text = json.dumps([kind, payloads], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


class Claims:
    """Claims ids. Every method raises UnavailableError while the broker is away."""

    def __init__(self, js: JetStreamContext) -> None:
        self._js = js
        self._kv: KeyValue | None = None

    async def claim(self, job_id: str, digest: str, life_s: float) -> int | None:
        """The claim's revision when the job is to be published now; None when it is there already.

        Raises ConflictError when another job is there under this id.
        """
        try:
            while True:
                # Without a claim only bare publishers can have been before. They reach the queue alone, where the
                # stream looks when the job is published (`first`), and from there a result. Where a copy of the stream
                # lags behind and lacks it yet, the worker sees it.
                revision, ended = await asyncio.gather(
                    self._create(job_id, digest, life_s), self.exists(job_id, stages=_STAGES[4:], direct=True)
                )
                if revision is not None:
                    return None if ended else revision
                revision, known = await self._read(job_id)
                if await self.exists(job_id):
                    if known is not None and known.fingerprint != digest:
                        raise ConflictError(
                            f"job {job_id} already exists with another kind or payload: use another id or key"
                        )
                    return None
                if known is not None and utc_now() - known.at < timedelta(seconds=SETTLE_S):
                    await asyncio.sleep(LOOK_EVERY_S)
                elif revision and (taken := await self._take_over(job_id, digest, life_s, revision)):
                    return taken
        except BUS_ERRORS as error:
            raise not_stored(f"the claim of job {job_id}", error) from error

    async def release(self, job_id: str) -> None:
        """Nothing was published under a claim; where that cannot be said now, the claim gives way by itself."""
        with suppress(*BUS_ERRORS):
            await (await self._bucket()).purge(subjects.token(job_id), msg_ttl=60)

    async def exists(self, job_id: str, stages: Sequence[_Stage] = _STAGES, *, direct: bool = False) -> bool:
        """Whether a job waits, runs or has a result; asked in the order in which jobs move on: none slips by."""
        for stream, subject in stages:
            with suppress(NotFoundError):
                await self._js.get_last_msg(stream, subject(job_id), direct=direct)
                return True
        return False

    async def _bucket(self) -> KeyValue:
        # Asking for it anew each time would cost as much as the claim.
        if self._kv is None:
            self._kv = await self._js.key_value(BUCKET)
        return self._kv

    async def _create(self, job_id: str, digest: str, life_s: float) -> int | None:
        kv = await self._bucket()
        try:
            return await kv.create(subjects.token(job_id), _body(digest), msg_ttl=life_s)
        except KeyWrongLastSequenceError:
            return None

    async def _read(self, job_id: str) -> tuple[int, _Claim | None]:
        """Revision and claim; one that expired just now has no revision, and one that is unreadable gives way."""
        kv = await self._bucket()
        try:
            entry = await kv.get(subjects.token(job_id))
        except KeyNotFoundError:
            return 0, None
        try:
            return entry.revision or 0, _Claim.model_validate_json(entry.value or b"")
        except ValidationError:
            return entry.revision or 0, None

    async def _take_over(self, job_id: str, digest: str, life_s: float, revision: int) -> int | None:
        subject = f"$KV.{BUCKET}.{subjects.token(job_id)}"
        headers = {Header.EXPECTED_LAST_SUBJECT_SEQUENCE.value: str(revision)}
        try:
            return (await self._js.publish(subject, _body(digest), headers=headers, msg_ttl=life_s)).seq
        except APIError as error:
            if error.err_code in WRONG_SEQUENCE:
                return None
            raise


def _body(digest: str) -> bytes:
    return _Claim(fingerprint=digest, at=utc_now()).model_dump_json().encode()


async def tokens_of_batch(js: JetStreamContext, batch_id: str) -> set[str]:
    """The last tokens of a batch's jobs that wait, run or have a result."""
    found: set[str] = set()
    for stream, subject in (*subjects.stages_of_batch(batch_id), ("RESULTS", subjects.results_of(batch_id))):
        try:
            names = await subjects_of(js, stream, subject)
        except BUS_ERRORS as error:
            raise UnavailableError(f"batch {batch_id} could not be looked up: {type(error).__name__}") from error
        found |= {name.rsplit(".", 1)[1] for name in names}
    return found

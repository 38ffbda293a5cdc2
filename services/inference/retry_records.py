"""What is kept of a job between attempts: changed by several, so never written without looking."""

from __future__ import annotations

from collections.abc import Callable

from nats.js.errors import KeyNotFoundError, KeyWrongLastSequenceError
from nats.js.kv import KeyValue
from pydantic import ValidationError

from shared import subjects
from shared.errors import UnavailableError
from shared.messages.jobs import JobState

TRIES = 20


class RetryRecords:
    """KV `jobs`. Every method raises the errors of nats-py."""

    def __init__(self, kv: KeyValue) -> None:
        self._kv = kv

    async def read(self, job_id: str) -> JobState:
        """The record of a job; an empty one where there is none that can be read."""
        return (await self._read(subjects.token(job_id)))[0]

    async def change(self, job_id: str, change: Callable[[JobState], JobState]) -> JobState:
        """Change a record as it is now, whoever else does; returns what was written.

        Raises UnavailableError when others are always faster.
        """
        key = subjects.token(job_id)
        for _ in range(TRIES):
            state, revision = await self._read(key)
            changed = change(state)
            body = changed.model_dump_json().encode()
            try:
                if revision is None:
                    await self._kv.create(key, body)
                else:
                    await self._kv.update(key, body, last=revision)
            except KeyWrongLastSequenceError:
                continue
            return changed
        raise UnavailableError(f"jobs/{key} not written: others wrote it {TRIES} times meanwhile")

    async def _read(self, key: str) -> tuple[JobState, int | None]:
        try:
            entry = await self._kv.get(key)
        except KeyNotFoundError:
            return JobState(), None
        try:
            return JobState.model_validate_json(entry.value or b""), entry.revision
        except ValidationError:
            return JobState(), entry.revision

"""What is recorded of a job between attempts; several processes change it, so writes are compare-and-set."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from nats.js.errors import KeyNotFoundError, KeyWrongLastSequenceError
from nats.js.kv import KeyValue
from pydantic import ValidationError

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.errors import UnavailableError
from accelerator_autopilot.contracts.messages.jobs import JobState
from accelerator_autopilot.contracts.projects import parse_job_reference
from accelerator_autopilot.transport.clock import utc_now

TRIES = 20
CLOCKS_DIFFER = timedelta(minutes=1)


class RetryRecords:
    """The KV bucket `jobs`. Every method raises the errors of nats-py."""

    def __init__(self, kv: KeyValue) -> None:
        self._kv = kv

    async def read(self, reference: str, since: datetime | None = None) -> JobState:
        """Read the record of a job; empty where there is none that can be read, or only one from before `since`."""
        return (await self._read(_key(reference), since))[0]

    async def change(
        self, reference: str, change: Callable[[JobState], JobState], since: datetime | None = None
    ) -> JobState:
        """Change the current record atomically; returns what was written.

        Raises UnavailableError when concurrent writers always win.
        """
        key = _key(reference)
        owner = {"project": parse_job_reference(reference)[1]}
        for _ in range(TRIES):
            state, revision = await self._read(key, since)
            changed = change(state).model_copy(update={"at": utc_now(), **owner, "actor": state.actor or "worker"})
            body = changed.model_dump_json().encode()
            try:
                if revision is None:
                    await self._kv.create(key, body)
                else:
                    await self._kv.update(key, body, last=revision)
            except KeyWrongLastSequenceError:
                continue
            return changed
        raise UnavailableError(f"jobs/{key} not written: it was changed concurrently {TRIES} times")

    async def _read(self, key: str, since: datetime | None) -> tuple[JobState, int | None]:
        try:
            entry = await self._kv.get(key)
        except KeyNotFoundError:
            return JobState(), None
        try:
            state = JobState.model_validate_json(entry.value or b"")
        except ValidationError:
            return JobState(), entry.revision
        # An id becomes free once its job and result are gone, which takes longer than clocks may differ.
        if since is not None and state.at is not None and state.at < since - CLOCKS_DIFFER:
            state = JobState()
        return state, entry.revision


def _key(reference: str) -> str:
    return subjects.job_key(*parse_job_reference(reference))

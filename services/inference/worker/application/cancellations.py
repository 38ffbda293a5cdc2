"""Learn which jobs were cancelled: pushed by a watch, and polled as well, since a watch can miss changes.

After a server was away, a watch receives nothing for up to 16 s, and possibly never again.
"""

from __future__ import annotations

import asyncio
import logging

import nats.errors
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.errors import APIError
from nats.js.kv import KV_DEL, KV_PURGE

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.errors import UnavailableError
from accelerator_autopilot.contracts.messages.jobs import JobState
from accelerator_autopilot.contracts.projects import job_reference
from accelerator_autopilot.inference.worker.application.worker_state import WorkerState
from accelerator_autopilot.runtime.poison_messages import PoisonRule
from accelerator_autopilot.transport.bucket_changes import BucketChanges

log = logging.getLogger(__name__)

BUCKET = "jobs"
# Less than the server keeps an idle follower's consumer.
RECHECK_S = 45.0
NOTICED_WITHIN_S = 0.25


class Cancellations:
    """Passes cancellations on to a worker's state."""

    def __init__(self, nc: Client, js: JetStreamContext, state: WorkerState, poison: PoisonRule) -> None:
        self._nc, self._js, self._state, self._poison = nc, js, state, poison

    async def run(self) -> None:
        """Watch and poll until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch())
            group.create_task(self._keep_reading())

    async def _watch(self) -> None:
        while True:
            try:
                kv = await self._js.key_value(BUCKET)
                async for entry in await kv.watchall(ignore_deletes=True):
                    if entry is not None and entry.operation not in (KV_DEL, KV_PURGE):
                        self._note(entry.key, entry.value)
            except (nats.errors.Error, APIError, OSError) as error:
                log.info("restarting the watch for cancellations", extra={"error": type(error).__name__})
            await asyncio.sleep(1.0)

    async def _keep_reading(self) -> None:
        """Poll for changes since the last read; immediately after a reconnect."""
        follower = BucketChanges(self._js, BUCKET)
        while True:
            connections = self._nc.stats["reconnects"]
            try:
                for key, value in (await follower.changes()).items():
                    if value:
                        self._note(key, value)
            except UnavailableError as error:
                log.info("cancellations not read", extra={"error": type(error).__name__})
                await asyncio.sleep(1.0)
                continue
            for _ in range(int(RECHECK_S / NOTICED_WITHIN_S)):
                await asyncio.sleep(NOTICED_WITHIN_S)
                if self._nc.stats["reconnects"] != connections:
                    break

    def _note(self, key: str, value: bytes | None) -> None:
        try:
            record = JobState.model_validate_json(value or b"")
            if record.cancelled:
                project, token = subjects.split_project(key)
                self._state.cancel(job_reference(subjects.untoken(token), project), record.at)
        except Exception as error:  # noqa: BLE001  whatever a value makes of itself
            self._poison.drop("worker kv jobs", error)

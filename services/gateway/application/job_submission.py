"""Submit jobs for a caller: check admission, and set the priority that the caller's share allows."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request

from accelerator_autopilot.client import AutopilotClient
from accelerator_autopilot.client.batches import BatchHandle
from accelerator_autopilot.client.jobs import JobHandle
from accelerator_autopilot.contracts.errors import BusyError
from accelerator_autopilot.contracts.ids import derived_id
from accelerator_autopilot.contracts.projects import job_reference
from accelerator_autopilot.gateway.application.admission import Admission
from accelerator_autopilot.gateway.application.batch_idempotency import BatchDeduplicator
from accelerator_autopilot.gateway.dependencies import Autopilot
from accelerator_autopilot.gateway.security.key_file import Caller, Role
from accelerator_autopilot.gateway.security.roles import require
from accelerator_autopilot.transport.job_id_claims import fingerprint
from accelerator_autopilot.transport.result_publishing import RETRY_WHEN_FULL_S

_QUEUE_FRESH_S = 0.5
RESULTS_FULL = 0.98


@dataclass
class _Depth:
    jobs: int = 0
    results_fill: float = 0.0
    at: float = float("-inf")


@dataclass
class CallerSubmission:
    """Submits jobs for one caller."""

    autopilot: AutopilotClient
    admission: Admission
    caller: Caller
    depth: _Depth
    retries: BatchDeduplicator
    unanswered: str = ""

    async def job(self, kind: str, payload: dict[str, Any], options: dict[str, Any], **identity: Any) -> JobHandle:
        """Submit one job. Raises BusyError when it is not admitted."""
        await self.admit(1)
        wanted = options.get("priority", "normal")
        options = options | {"priority": self.admission.priority(self.caller.user, wanted)}
        key = identity.get("idempotency_key")
        job_id = identity.get("job_id") or self.autopilot.jobs.identify(kind, self.caller.user, key)
        # A result may arrive before the confirmation: counting afterwards would never be undone.
        counted = self.count(self._references([job_id]))
        try:
            handle = await self.autopilot.jobs.submit(
                kind, payload, job_id=job_id, submitter=self.caller.user, fresh=key is None, **options
            )
        except BaseException:
            self.forget(counted)
            raise
        if handle.duplicate:
            self.forget(counted)
        return handle

    async def batch(
        self, kind: str, payloads: list[dict[str, Any]], options: dict[str, Any], key: str | None = None
    ) -> BatchHandle:
        """Submit a batch. Raises BusyError when it is not admitted as a whole.

        The same `key` means the same batch. Without a key the same content does, until it was `answered`.
        """
        digest, first = fingerprint(kind, payloads), False
        if key:
            batch_id = derived_id(self.caller.user, kind, key)
        else:
            content = derived_id(self.caller.user, digest, json.dumps(options, sort_keys=True, default=str))
            self.unanswered = content
            batch_id, first = await self.retries.id_of(content)
        job_ids = self._references(f"{batch_id}.{i}" for i in range(len(payloads)))
        try:
            await self.admit(len(self.admission.uncounted(self.caller.user, job_ids)))
        except BaseException:
            if first:
                await self.answered()
            raise
        wanted = options.get("priority", "normal")
        options = options | {"priority": self.admission.priority(self.caller.user, wanted)}
        counted = self.count(job_ids)
        try:
            handle = await self.autopilot.batches.map(
                kind, payloads, submitter=self.caller.user, batch_id=batch_id, digest=digest, **options
            )
        except BaseException:
            self.forget(counted)
            raise
        if handle.duplicate:
            there = set(self._references(f"{batch_id}.{i}" for i in handle.there))
            self.forget([job_id for job_id in counted if job_id in there])
        return handle

    async def answered(self) -> None:
        """Record that the submitter knows of a batch: the same content is a new batch from now on."""
        if self.unanswered:
            await self.retries.forget(self.unanswered)

    async def admit(self, count: int) -> None:
        """Raise BusyError when this many more jobs are too many, or results have no room."""
        now = asyncio.get_running_loop().time()
        if now - self.depth.at > _QUEUE_FRESH_S:
            self.depth.jobs, self.depth.at = await self.autopilot.fleet.queue_depth(), now
            self.depth.results_fill = await self.autopilot.fleet.results_fill()
        if self.depth.results_fill >= RESULTS_FULL:
            reason = f"stored results use {self.depth.results_fill:.0%} of their space, so no job could finish"
            raise BusyError(reason, RETRY_WHEN_FULL_S)
        self.admission.admit(self.caller.user, count, self.depth.jobs, now)

    def _references(self, job_ids: Iterable[str]) -> list[str]:
        return [job_reference(job_id, self.caller.project) for job_id in job_ids]

    def count(self, job_ids: list[str]) -> list[str]:
        """Count jobs about to be stored that were not counted before."""
        self.depth.jobs += len(job_ids)
        return self.admission.submitted(self.caller.user, job_ids, asyncio.get_running_loop().time())

    def forget(self, job_ids: list[str]) -> None:
        """Uncount jobs that were not stored."""
        self.admission.withdrawn(job_ids)


def submit_for(
    request: Request, autopilot: Autopilot, caller: Annotated[Caller, Depends(require(Role.operator))]
) -> CallerSubmission:
    """Return the caller's submission service; requires the role operator."""
    if not hasattr(request.app.state, "depth"):
        request.app.state.depth = _Depth()
    retries = BatchDeduplicator(autopilot.js)
    return CallerSubmission(autopilot, request.app.state.admission, caller, request.app.state.depth, retries)


Submit = Annotated[CallerSubmission, Depends(submit_for)]

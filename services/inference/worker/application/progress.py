"""Progress of running jobs: fractions and partial output, from the device's thread to subscribers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from nats.aio.client import Client

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.messages.jobs import JobProgress
from accelerator_autopilot.inference.jobs.completion import ClaimedJob
from accelerator_autopilot.inference.kinds.base import RunContext
from accelerator_autopilot.inference.settings import WorkerSettings
from accelerator_autopilot.inference.worker.application.scratch_folders import ScratchFolders
from accelerator_autopilot.inference.worker.application.worker_state import WorkerState
from accelerator_autopilot.transport.clock import utc_now


def make_context(
    taken: Sequence[ClaimedJob], nc: Client, settings: WorkerSettings, state: WorkerState, scratch: ScratchFolders
) -> RunContext:
    """Create the context of a batch."""
    loop = asyncio.get_running_loop()

    def send(index: int, **fields: Any) -> None:
        job = taken[index].job
        report = JobProgress(
            job_id=job.id,
            state="running",
            attempt=taken[index].attempt,
            at=utc_now(),
            **job.owner,
            **fields,
        ).model_dump_json(exclude_none=True)
        asyncio.run_coroutine_threadsafe(nc.publish(subjects.progress(job.id, job.project), report.encode()), loop)

    return RunContext(
        models=settings,
        scratch=scratch,
        attempts=[t.attempt for t in taken],
        progress=lambda index, fraction: send(index, fraction=fraction),
        partial=lambda index, output: send(index, partial=output),
        cancelled=lambda index: state.is_cancelled(taken[index]),
        speed=lambda: state.speed,
    )

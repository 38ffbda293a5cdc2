"""What running jobs tell: fractions and partial output, from the device's thread to whoever follows."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from nats.aio.client import Client

from services.inference.kinds.base import RunContext
from services.inference.outcomes import Taken
from services.inference.scratch import Scratch
from services.inference.settings import WorkerSettings
from services.inference.worker_state import WorkerState
from shared import subjects
from shared.clock import utc_now
from shared.messages.jobs import JobProgress


def make_context(
    taken: Sequence[Taken], nc: Client, settings: WorkerSettings, state: WorkerState, scratch: Scratch
) -> RunContext:
    """The context of a batch."""
    loop = asyncio.get_running_loop()

    def tell(index: int, **fields: Any) -> None:
        job = taken[index].job
        report = JobProgress(
            job_id=job.id, state="running", attempt=taken[index].attempt, at=utc_now(), **fields
        ).model_dump_json(exclude_none=True)
        asyncio.run_coroutine_threadsafe(nc.publish(subjects.progress(job.id), report.encode()), loop)

    return RunContext(
        models=settings,
        scratch=scratch,
        attempts=[t.attempt for t in taken],
        progress=lambda index, fraction: tell(index, fraction=fraction),
        partial=lambda index, output: tell(index, partial=output),
        cancelled=lambda index: state.is_cancelled(taken[index]),
        speed=lambda: state.speed,
    )

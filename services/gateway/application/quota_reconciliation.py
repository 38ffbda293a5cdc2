"""Find jobs whose result was missed while NATS was unreachable, which would otherwise count as unfinished forever."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import nats.errors

from accelerator_autopilot.client.job_views import JobView
from accelerator_autopilot.contracts.errors import NotFoundError, UnavailableError
from accelerator_autopilot.gateway.application.admission import Admission
from accelerator_autopilot.runtime.supervision import beat

log = logging.getLogger(__name__)

CHECK_INTERVAL_S, CHECKED_AT_ONCE = 30.0, 200
# By then most jobs have ended, or are known to wait.
DOUBTFUL_AFTER_S = 60.0

# By the job's reference, which tells its project.
View = Callable[[str], Awaitable[JobView]]


async def reconcile(admission: Admission, view: View, now_s: float) -> None:
    """Uncount some of those that have ended. Raises UnavailableError and the errors of nats-py."""
    missed = 0
    for job in admission.doubtful(now_s - DOUBTFUL_AFTER_S, CHECKED_AT_ONCE):
        beat()
        try:
            ended = (await view(job)).result is not None
        except NotFoundError:
            ended = True
        if ended:
            missed += 1
            admission.gone(job)
    if missed:
        log.info("missed results of jobs", extra={"jobs": missed})


async def reconcile_loop(admission: Admission, view: View) -> None:
    """Reconcile periodically, until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        beat()
        await asyncio.sleep(CHECK_INTERVAL_S)
        try:
            await reconcile(admission, view, loop.time())
        except (UnavailableError, nats.errors.Error, OSError) as error:
            log.info("unfinished jobs not reconciled", extra={"error": type(error).__name__})

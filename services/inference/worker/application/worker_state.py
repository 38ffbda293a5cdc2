"""What all lanes of a worker share."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from nats.aio.msg import Msg

from accelerator_autopilot.inference.jobs.retry_records import CLOCKS_DIFFER
from accelerator_autopilot.inference.worker.application.device_turns import DeviceTurns
from accelerator_autopilot.inference.worker.application.suspect_isolation import SuspectIsolation

if TYPE_CHECKING:
    from accelerator_autopilot.inference.jobs.completion import ClaimedJob
    from accelerator_autopilot.inference.jobs.run_time_limit import RunTimeLimit

# Exit codes of a worker, as sysexits.h has them: it asks for a fresh process (EX_TEMPFAIL), jobs fail one after another
# on its device (EX_IOERR), a batch did not end in its time (EX_SOFTWARE).
BEGIN_ANEW = 75
DEVICE_SUSPECTED = 74
RUN_TIMED_OUT = 70
MOST_CANCELLED = 100_000

TURN_S = 2.0

log = logging.getLogger(__name__)


@dataclass
class WorkerState:
    """The jobs in hand, and how the worker has done so far.

    `share` is what the device's state allows of a batch, `batch_delay_s` how long its first job waits for company,
    `speed` how fast a simulated device is, `here` the worker's own as <node>/<device>.
    `stop` is set when the worker is to end, with `exit_code`.
    """

    runs: RunTimeLimit
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    company: SuspectIsolation = field(default_factory=SuspectIsolation)

    turns: DeviceTurns = field(default_factory=lambda: DeviceTurns(TURN_S))
    held: dict[str, Msg] = field(default_factory=dict)
    running: dict[str, ClaimedJob] = field(default_factory=dict)
    cancelled: OrderedDict[str, datetime | None] = field(default_factory=OrderedDict)
    jobs_done: int = 0
    jobs_failed: int = 0
    busy_s: float = 0.0
    batch_started: float | None = None
    last_job_at: float = 0.0
    share: float = 1.0
    batch_delay_s: float = 0.0
    speed: float = 1.0
    exit_code: int = 0
    done_by_kind: Counter[str] = field(default_factory=Counter)
    after_failing_on: Counter[str] = field(default_factory=Counter)
    suspect_after: int = 3
    here: str = ""
    _failing: dict[str, str] = field(default_factory=dict)
    _batches: int = 0

    def batch_begins(self, now_s: float) -> None:
        """A batch runs from now on; several at once keep the device busy once."""
        if not self._batches:
            self.batch_started = now_s
        self._batches += 1

    def batch_ends(self, now_s: float) -> None:
        """One that ran has ended."""
        self._batches -= 1
        if not self._batches and self.batch_started is not None:
            self.busy_s += now_s - self.batch_started
            self.batch_started = None

    def end(self, exit_code: int = 0) -> None:
        """Take no more and end; the first reason stays."""
        if not self.stop.is_set():
            self.exit_code = exit_code
        self.stop.set()

    def cancel(self, job_id: str, at: datetime | None) -> None:
        """A job was cancelled, then."""
        self.cancelled[job_id] = at
        self.cancelled.move_to_end(job_id)
        if len(self.cancelled) > MOST_CANCELLED:
            self.cancelled.popitem(last=False)

    def is_cancelled(self, taken: ClaimedJob) -> bool:
        """Whether this job was cancelled, and not another that had its id before."""
        if taken.job.id not in self.cancelled:
            return False
        at = self.cancelled[taken.job.id]
        return at is None or at >= taken.since - CLOCKS_DIFFER

    def succeeded(self, kind: str, taken: ClaimedJob) -> None:
        """A job of a kind ran well, so the device does; where it had failed before, it was not the job's fault."""
        self.done_by_kind[kind] += 1
        self.after_failing_on.update({e.device for e in taken.errors if e.device not in {"", self.here}})
        self._failing.clear()

    def failed(self, kind: str, taken: ClaimedJob, error: BaseException) -> None:
        """End when different jobs fail one after another for reasons that may be the device's.

        What a kind says itself of a job is the job's own; one that failed on another device as well brings it along.
        """
        if not getattr(error, "of_device", False) or any(e.device not in {"", self.here} for e in taken.errors):
            return
        self._failing[taken.job.id] = kind
        if self.suspect_after and len(self._failing) >= self.suspect_after and not self.stop.is_set():
            kinds = sorted(set(self._failing.values()))
            log.error("jobs fail one after another, ending", extra={"kinds": kinds, "jobs": len(self._failing)})
            self.runs.journal.failing(kinds)
            self.end(DEVICE_SUSPECTED)

"""State shared by all runners of a worker."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from nats.aio.msg import Msg

from accelerator_autopilot.inference.jobs.retry_records import CLOCKS_DIFFER
from accelerator_autopilot.inference.worker.application.kind_turns import KindTurns
from accelerator_autopilot.inference.worker.application.suspect_isolation import SuspectIsolation

if TYPE_CHECKING:
    from accelerator_autopilot.inference.jobs.completion import ClaimedJob
    from accelerator_autopilot.inference.jobs.run_time_limit import RunTimeLimit

# Exit codes of a worker, from sysexits.h: it needs a fresh process (EX_TEMPFAIL), jobs fail one after another on its
# device (EX_IOERR), a batch exceeded its time limit (EX_SOFTWARE).
RESTART = 75
DEVICE_SUSPECTED = 74
RUN_TIMED_OUT = 70
MAX_CANCELLED = 100_000

TURN_S = 2.0

log = logging.getLogger(__name__)


@dataclass
class WorkerState:
    """The jobs in progress, and how the worker has performed so far.

    `share` is how much of a batch the device's state allows, `batch_delay_s` how long the first job waits for a
    fuller batch, `speed` the speed of a simulated device, `here` the worker's place as <node>/<device>. `stop` is
    set when the worker should exit with `exit_code`.
    """

    runs: RunTimeLimit
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    isolation: SuspectIsolation = field(default_factory=SuspectIsolation)

    turns: KindTurns = field(default_factory=lambda: KindTurns(TURN_S))
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
        """Record that a batch starts; concurrent batches count as one busy period."""
        if not self._batches:
            self.batch_started = now_s
        self._batches += 1

    def batch_ends(self, now_s: float) -> None:
        """Record that a batch ended."""
        self._batches -= 1
        if not self._batches and self.batch_started is not None:
            self.busy_s += now_s - self.batch_started
            self.batch_started = None

    def end(self, exit_code: int = 0) -> None:
        """Take no more jobs and exit; the first reason wins."""
        if not self.stop.is_set():
            self.exit_code = exit_code
        self.stop.set()

    def cancel(self, reference: str, at: datetime | None) -> None:
        """Record when a job was cancelled."""
        self.cancelled[reference] = at
        self.cancelled.move_to_end(reference)
        if len(self.cancelled) > MAX_CANCELLED:
            self.cancelled.popitem(last=False)

    def is_cancelled(self, taken: ClaimedJob) -> bool:
        """Whether this job was cancelled, rather than an earlier one with the same id."""
        if taken.job.reference not in self.cancelled:
            return False
        at = self.cancelled[taken.job.reference]
        return at is None or at >= taken.since - CLOCKS_DIFFER

    def succeeded(self, kind: str, taken: ClaimedJob) -> None:
        """Record a success; it clears the device, and earlier failures elsewhere were not the job's fault."""
        self.done_by_kind[kind] += 1
        self.after_failing_on.update({e.device for e in taken.errors if e.device not in {"", self.here}})
        self._failing.clear()

    def failed(self, kind: str, taken: ClaimedJob, error: BaseException) -> None:
        """Exit when different jobs fail one after another for reasons that may be the device's.

        Errors that a kind raises itself are the job's own; so are failures of a job that also failed on another
        device.
        """
        if not getattr(error, "of_device", False) or any(e.device not in {"", self.here} for e in taken.errors):
            return
        self._failing[taken.job.reference] = kind
        if self.suspect_after and len(self._failing) >= self.suspect_after and not self.stop.is_set():
            kinds = sorted(set(self._failing.values()))
            log.error("jobs fail one after another; exiting", extra={"kinds": kinds, "jobs": len(self._failing)})
            self.runs.journal.failing(kinds)
            self.end(DEVICE_SUSPECTED)

"""One worker process as its pool sees it: its last status, when it came, and its run journal."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import IO, Literal

from pydantic import ValidationError

from accelerator_autopilot.contracts.messages.jobs import WorkerStatus
from accelerator_autopilot.inference.jobs.run_journal import JournalEntry, RunningJob, open_journal, read_journal
from accelerator_autopilot.runtime.parent_death import end_with_parent
from accelerator_autopilot.transport.clock import utc_now

MAX_LINE_BYTES = 1 << 20
# Silence that the pool tolerates while a worker starts or a model loads: both may block the whole process.
LOADING_SILENT_S = 300.0


@dataclass
class WorkerProcess:
    """A worker process. `heard_at` is on the loop's clock; before its first line it is the time of its start."""

    process: asyncio.subprocess.Process
    status: WorkerStatus
    journal: IO[bytes]
    reader: asyncio.Task[None] | None = None
    draining_since: float | None = None
    heard_at: float = field(default_factory=lambda: asyncio.get_running_loop().time())
    has_spoken: bool = False
    killed: Literal["", "silent", "drain"] = ""
    settings: dict[str, float] = field(default_factory=dict)

    @classmethod
    async def start(
        cls,
        name: str,
        device: str,
        environment: Mapping[str, str],
        heard: Callable[[WorkerProcess, WorkerStatus], None],
    ) -> WorkerProcess:
        """Start a worker; `heard` is called with each of its lines, before it becomes the worker's status."""
        journal = open_journal()
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            # Without -P, modules in the current folder would replace libraries of the same name.
            "-P",
            "-m",
            "accelerator_autopilot.inference",
            "worker",
            env=os.environ
            | {"AUTOPILOT_WORKER": name, "AUTOPILOT_JOURNAL_FD": str(journal.fileno())}
            | dict(environment),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            preexec_fn=end_with_parent,
            pass_fds=[journal.fileno()],
            limit=MAX_LINE_BYTES,
        )
        status = WorkerStatus(worker=name, device=device, pid=process.pid, state="starting", started_at=utc_now())
        worker = cls(process, status, journal)
        worker.reader = asyncio.create_task(worker._read(heard))
        return worker

    async def _read(self, heard: Callable[[WorkerProcess, WorkerStatus], None]) -> None:
        assert self.process.stdout is not None  # noqa: S101  piped above
        while True:
            try:
                line = await self.process.stdout.readline()
            except ValueError:
                # Longer than any status: whatever it was, the next line may be one.
                continue
            if not line:
                return
            try:
                status = WorkerStatus.model_validate_json(line)
            except ValidationError:
                continue
            state = "draining" if self.draining_since is not None else status.state
            heard(self, status)
            self.heard_at, self.has_spoken = asyncio.get_running_loop().time(), True
            self.status = status.model_copy(update={"state": state})

    def drain(self, now: float) -> None:
        """Let it finish what runs and exit."""
        self.draining_since = now
        self.status = self.status.model_copy(update={"state": "draining"})
        if self.process.returncode is None:
            self.process.terminate()

    def kill(self, why: Literal["silent", "drain"]) -> None:
        """Kill it immediately."""
        if not self.killed and self.process.returncode is None:
            self.killed = why
            self.process.kill()

    def send_settings(self, settings: dict[str, float]) -> None:
        """Send it one line, if that changed. A worker that does not read is sent it again once it does."""
        stdin = self.process.stdin
        if settings != self.settings and stdin is not None and not stdin.is_closing():
            self.settings = settings
            stdin.write(json.dumps(settings).encode() + b"\n")

    def silent_s(self, now: float) -> float:
        """How long it has been silent."""
        return now - self.heard_at

    @property
    def loading(self) -> bool:
        """Whether it loads a model."""
        return self.entry.loading

    @property
    def entry(self) -> JournalEntry:
        """Return its run journal, or else its last status."""
        entry = read_journal(self.journal)
        if entry is not None:
            return entry
        return JournalEntry(jobs=[RunningJob(id=job_id) for job_id in self.status.running])

    def close(self) -> None:
        """Release its resources; it has exited."""
        self.journal.close()
        if self.process.stdin is not None:
            self.process.stdin.close()

"""One supervised process: started, watched, restarted with a growing pause, its output in a file."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

log = logging.getLogger(__name__)

PAUSES_S = (0.1, 0.5, 1.0, 2.0, 5.0)
STEADY_S = 30.0
STOP_TIMEOUT_S = 12.0
PR_SET_PDEATHSIG = 1


class ManagedProcess:
    """A command that is to run until it is stopped."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], log_file: Path) -> None:
        self.name, self._command, self._environment, self._log_file = name, command, environment, log_file
        self.restarts = 0
        self.last_exit: int | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        running = self._process is not None and self._process.returncode is None
        return self._process.pid if running and self._process else None

    async def start(self) -> None:
        """Start it, and keep it running."""
        await self._spawn()
        self._task = asyncio.create_task(self._watch())

    async def _spawn(self) -> None:
        with self._log_file.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                env=dict(self._environment),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=_detach,
            )

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        quick = 0
        while True:
            began = loop.time()
            assert self._process is not None  # noqa: S101  start() made it
            self.last_exit = await self._process.wait()
            if self._stopping:
                return
            quick = 0 if loop.time() - began > STEADY_S else quick + 1
            self.restarts += 1
            log.warning("process ended, starting it again", extra={"child": self.name, "exit_code": self.last_exit})
            await asyncio.sleep(PAUSES_S[min(quick, len(PAUSES_S) - 1)])
            if self._stopping:
                return
            await self._spawn()

    async def stop(self) -> None:
        """Ask it to end, and kill it when it does not."""
        self._stopping = True
        process = self._process
        if process is not None and process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
            except TimeoutError:
                process.kill()
                await process.wait()
        if self._task is not None:
            self._task.cancel()


def _detach() -> None:
    # Its own session, so that Ctrl-C reaches the supervisor alone; dying with it all the same.
    os.setsid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

"""A supervised process: started, watched, restarted with a growing delay, its output in a file."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from accelerator_autopilot.deploy.local.liveness_deadlines import LivenessDeadline
from accelerator_autopilot.deploy.local.log_rotation import open_log, rotate
from accelerator_autopilot.runtime.parent_death import end_with_parent

log = logging.getLogger(__name__)

PAUSES_S = (0.1, 0.5, 1.0, 2.0, 5.0)
STEADY_S = 30.0
STOP_TIMEOUT_S = 15.0
# Longer than any start, even on a busy machine: a restart loses what the process was doing.
DEAD_AFTER_S = 30.0
START_WITHIN_S = 180.0
PROBE_INTERVAL_S = 2.0
LOG_INTERVAL_S = 10.0

Probe = Callable[[], Awaitable[bool]]


class ManagedProcess:
    """A command that runs until it is stopped.

    With a `probe` it also has to be alive: a process that stops answering for `dead_after_s`, or that does not
    answer within START_WITHIN_S of its start, is killed and restarted.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        log_file: Path,
        *,
        probe: Probe | None = None,
        stop_timeout_s: float = STOP_TIMEOUT_S,
        dead_after_s: float = DEAD_AFTER_S,
    ) -> None:
        self.name, self._command, self._environment, self._log_file = name, command, environment, log_file
        self._probe, self._stop_timeout_s, self._dead_after_s = probe, stop_timeout_s, dead_after_s
        self.restarts = 0
        self.last_exit: int | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False
        self._spawning = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        running = self._process is not None and self._process.returncode is None
        return self._process.pid if running and self._process else None

    async def start(self) -> None:
        """Start it, and keep it running."""
        await self._spawn()
        self._tasks = [asyncio.create_task(self._watch()), asyncio.create_task(self._rotate_logs())]
        if self._probe is not None:
            self._tasks.append(asyncio.create_task(self._watch_liveness(self._probe)))

    async def restart(self) -> None:
        """Ask it to stop; it is restarted automatically."""
        if self._process is not None and self._process.returncode is None:
            await _end(self._process, self._stop_timeout_s)

    async def _spawn(self) -> None:
        """Start it, unless it is being stopped: stopping waits until a start is complete."""
        async with self._spawning:
            if not self._stopping:
                await self._start_process()

    async def _start_process(self) -> None:
        output = open_log(self._log_file)
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                env=dict(self._environment),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=_detach,
            )
        finally:
            os.close(output)

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
            log.warning("process ended; restarting it", extra={"child": self.name, "exit_code": self.last_exit})
            while not self._stopping:
                await asyncio.sleep(PAUSES_S[min(quick, len(PAUSES_S) - 1)])
                try:
                    await self._spawn()
                    break
                except OSError as error:  # out of processes, memory or disk: none of it lasts forever
                    quick += 1
                    log.warning("process not started", extra={"child": self.name, "error": str(error)})

    async def _watch_liveness(self, probe: Probe) -> None:
        loop = asyncio.get_running_loop()
        pid, patience = self.pid, LivenessDeadline.of(START_WITHIN_S, self._dead_after_s, loop.time())
        while True:
            await asyncio.sleep(PROBE_INTERVAL_S)
            answered = await probe()
            now = loop.time()
            if self.pid != pid:
                pid = self.pid
                patience.begin(now)
            elif patience.over(now, answered=answered) and self._process is not None:
                silent_s = round(patience.silent_s(now), 1)
                log.warning("process does not answer; killing it", extra={"child": self.name, "silent_s": silent_s})
                with suppress(ProcessLookupError):
                    self._process.kill()
                patience.begin(now)

    async def _rotate_logs(self) -> None:
        while True:
            await asyncio.sleep(LOG_INTERVAL_S)
            try:
                await asyncio.to_thread(rotate, self._log_file)
            except OSError as error:
                log.warning("log not rotated", extra={"child": self.name, "error": str(error)})

    async def stop(self) -> None:
        """Ask it to stop, and kill it when it does not."""
        self._stopping = True
        async with self._spawning:
            pass
        if self._process is not None and self._process.returncode is None:
            await _end(self._process, self._stop_timeout_s)
        for task in self._tasks:
            task.cancel()


async def _end(process: asyncio.subprocess.Process, timeout_s: float) -> None:
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), timeout_s)
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _detach() -> None:
    # Its own session, so that Ctrl-C only reaches the supervisor; it still dies with it.
    os.setsid()
    end_with_parent()

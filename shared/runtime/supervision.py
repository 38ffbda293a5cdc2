"""Supervise long-lived tasks: one that fails, ends or hangs is reported and restarted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge

from accelerator_autopilot.runtime.failure_description import failure_fields
from accelerator_autopilot.runtime.health import HealthState

log = logging.getLogger(__name__)

Work = Callable[[], Coroutine[Any, Any, None]]
BACKOFF_S = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
# After a run of this length, a failed task restarts without the earlier delays.
STEADY_S = 60.0
CHECK_INTERVAL_S = 0.5
# A cancelled task that does not end is abandoned: a stuck call must not block its successor.
CANCEL_WAIT_S = 3.0
CANCEL_AGAIN_S = 1.0

_current: ContextVar[_Task | None] = ContextVar("supervised_task", default=None)


@dataclass
class _Task:
    name: str
    work: Work
    hang_timeout_s: float | None
    last_beat: float = 0.0
    failures: int = 0


def beat() -> None:
    """Signal that the supervised task running this code makes progress; outside of one it does nothing."""
    task = _current.get()
    if task is not None:
        task.last_beat = asyncio.get_running_loop().time()


async def _ended(task: asyncio.Task[None]) -> None:
    """Wait a limited time for a cancelled task to clean up; one that swallows the cancellation is cancelled again."""
    loop = asyncio.get_running_loop()
    until = loop.time() + CANCEL_WAIT_S
    told_at = loop.time()
    while not task.done() and loop.time() < until:
        if loop.time() - told_at >= CANCEL_AGAIN_S:
            told_at = loop.time()
            task.cancel()
        try:
            await asyncio.wait([task], timeout=min(until, told_at + CANCEL_AGAIN_S) - loop.time())
        except asyncio.CancelledError:
            # The caller is cancelled once more while it waits.
            continue


async def cancel_all(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel tasks until they end: before Python 3.12 `wait_for` may swallow a cancellation."""
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=0.5)


async def run_together(*works: Coroutine[Any, Any, None]) -> None:
    """Run all until they end; the first failure ends the others and is raised, and cancellation ends all.

    Unlike a TaskGroup it cancels again when a task swallows a cancellation: a group would wait forever.
    """
    tasks = [asyncio.create_task(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
    finally:
        await cancel_all(tasks)


class TaskSupervisor:
    """Runs tasks by name until `stop`.

    A task that raises, returns, or does not call `beat()` within its `hang_timeout_s` makes the process not ready
    under `task <name>`, is counted in `autopilot_task_restarts_total`, and restarts after a growing delay.
    """

    def __init__(self, health: HealthState, registry: CollectorRegistry) -> None:
        self._health = health
        self._restarts = Counter(
            "autopilot_task_restarts", "restarts of long-lived tasks", ["task", "reason"], registry=registry
        )
        self._up = Gauge("autopilot_task_up", "1 while a long-lived task runs", ["task"], registry=registry)
        self._runners: dict[str, asyncio.Task[None]] = {}

    def start(self, name: str, work: Work, *, hang_timeout_s: float | None = None) -> None:
        """Run `work()` forever under a name; starting a second one under the same name replaces the first."""
        if name in self._runners:
            self._runners.pop(name).cancel()
        self._runners[name] = asyncio.create_task(self._keep(_Task(name, work, hang_timeout_s)), name=name)

    def end(self, name: str) -> None:
        """Stop one task and forget it."""
        keeper = self._runners.pop(name, None)
        if keeper is not None:
            keeper.cancel()
        self._health.forget(f"task {name}")

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        """Return what to cancel at shutdown."""
        return list(self._runners.values())

    async def _keep(self, task: _Task) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began = task.last_beat = loop.time()
            reason = await self._run_once(task)
            task.failures = 1 if loop.time() - began > STEADY_S else task.failures + 1
            self._up.labels(task.name).set(0)
            self._restarts.labels(task.name, reason).inc()
            self._health.report(f"task {task.name}", ok=False, reason=reason)
            await asyncio.sleep(BACKOFF_S[min(task.failures, len(BACKOFF_S)) - 1])

    @staticmethod
    def _check_delay_s(task: _Task, now: float, *, reported: bool) -> float | None:
        """Return when to check a running task again: an idle process with twenty of them should do nothing."""
        if not reported:
            return CHECK_INTERVAL_S
        if task.hang_timeout_s is None:
            return None
        return max(CHECK_INTERVAL_S, task.last_beat + task.hang_timeout_s - now)

    async def _run_once(self, task: _Task) -> str:
        """Return why it ended: `ended`, `hung`, or the name of its exception."""
        _current.set(task)
        running = asyncio.create_task(task.work(), name=task.name)
        _current.set(None)
        self._up.labels(task.name).set(1)
        loop = asyncio.get_running_loop()
        began = loop.time()
        reported = False
        try:
            while not running.done():
                await asyncio.wait([running], timeout=self._check_delay_s(task, loop.time(), reported=reported))
                if running.done():
                    break
                if task.hang_timeout_s is not None and loop.time() - task.last_beat > task.hang_timeout_s:
                    log.error("task hangs; restarting it", extra={"task": task.name})
                    return "hung"
                if not reported and (not task.failures or loop.time() - began > min(task.failures, 5)):
                    self._health.report(f"task {task.name}", ok=True)
                    reported = True
        finally:
            if not running.done():
                running.cancel()
                await _ended(running)
        if running.cancelled():
            return "cancelled"
        error = running.exception()
        if error is None:
            log.error("task ended; restarting it", extra={"task": task.name})
            return "ended"
        log.error("task failed; restarting it", extra={"task": task.name} | failure_fields(error))
        return type(error).__name__

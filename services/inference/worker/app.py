"""A worker process: its runners, its heartbeat to the pool, its shutdown.

It talks to its pool in JSON lines on standard output and standard input, and drains on SIGTERM: running jobs finish,
jobs that have not started are given back.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import stat
import sys
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

import nats
from nats.aio.client import Client
from prometheus_client import CollectorRegistry

from accelerator_autopilot.contracts import streams
from accelerator_autopilot.contracts.errors import UnavailableError
from accelerator_autopilot.contracts.messages.jobs import WorkerStatus
from accelerator_autopilot.inference.errors import RunTimeoutError
from accelerator_autopilot.inference.jobs.completion import JobCompletion
from accelerator_autopilot.inference.jobs.run_journal import RunJournal
from accelerator_autopilot.inference.jobs.run_time_limit import Run, RunTimeLimit
from accelerator_autopilot.inference.settings import WorkerSettings
from accelerator_autopilot.inference.worker.application.batch_runner import NATS_ERRORS, BatchRunner, JobRunner
from accelerator_autopilot.inference.worker.application.cancellations import Cancellations
from accelerator_autopilot.inference.worker.application.continuous_runner import ContinuousRunner
from accelerator_autopilot.inference.worker.application.kind_turns import MAX_LONG_BATCHES, KindTurns
from accelerator_autopilot.inference.worker.application.model_cache import MODEL_CACHE
from accelerator_autopilot.inference.worker.application.model_warm_up import warm_up
from accelerator_autopilot.inference.worker.application.runner_factory import RunnerFactory
from accelerator_autopilot.inference.worker.application.scratch_folders import sweep_scratch
from accelerator_autopilot.inference.worker.application.status_pipe import StatusPipe
from accelerator_autopilot.inference.worker.application.worker_state import RESTART, RUN_TIMED_OUT, WorkerState
from accelerator_autopilot.runtime.failure_description import failure_fields
from accelerator_autopilot.runtime.poison_messages import PoisonRule
from accelerator_autopilot.transport.acked_publishing import AckedPublisher
from accelerator_autopilot.transport.clock import utc_now
from accelerator_autopilot.transport.connection import can_come_back, connection_options
from accelerator_autopilot.transport.wire_protocol import read_fast

log = logging.getLogger(__name__)

KEEP_ALIVE_S = streams.JOB_ACK_WAIT_S / 4
REPORT_S = 0.5
# Longer than the pool lets a worker load its models without a word.
HANG_TIMEOUT_S = 330
SLOWEST = 0.01
STUCK_S = 10.0
MAX_LISTED_JOBS = 1000


def end_by_itself_later() -> None:
    """Have the kernel end this process unless it is called again in time.

    A pool kills a worker that stands still. Without a pool nobody would: a library that blocks the main thread also
    blocks every handler of signals.
    """
    signal.alarm(HANG_TIMEOUT_S)


async def run_worker(settings: WorkerSettings) -> int:
    """Work until SIGTERM, SIGINT or the end of the pool; returns the exit code, 0 or one of worker_state.py."""
    loop = asyncio.get_running_loop()
    journal = RunJournal(settings.journal_fd)
    MODEL_CACHE.on_loading = journal.loading
    runs, turns = RunTimeLimit(journal, settings.run_timeout_s), KindTurns(settings.exclusive_run_s)
    here = f"{settings.node}/{settings.worker_device}"
    state = WorkerState(runs, turns=turns, suspect_after=settings.suspect_after_failures, here=here)
    stop = state.stop
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, state.end)

    async def gone() -> None:
        if not stop.is_set():
            log.critical("NATS connection closed permanently; exiting")
            os._exit(1)

    sweep_scratch(settings.scratch_dir)
    executor = ThreadPoolExecutor(max_workers=1 + MAX_LONG_BATCHES, thread_name_prefix="device")
    await loop.run_in_executor(executor, warm_up, settings)
    options = connection_options(settings, f"autopilot-worker-{settings.worker}")
    nc = await nats.connect(settings.servers, closed_cb=gone, **options)
    read_fast(nc)
    js = AckedPublisher(nc, timeout_s=5.0)
    outcomes = JobCompletion(js, await js.key_value("jobs"), settings, state.is_cancelled)
    poison = PoisonRule(CollectorRegistry(), lambda: js)
    factory = RunnerFactory(settings, nc, js, outcomes, state, executor, poison)
    lanes = [await factory.open(name) for name in settings.pool_kinds]
    tasks: set[asyncio.Task[None]] = set()
    state.runs.start(lambda late: _from_thread(loop, tasks, _end_overdue(late, state, lanes, outcomes)))
    work = [asyncio.create_task(lane.run(), name=f"lane {lane.name}") for lane in lanes]
    side = [
        asyncio.create_task(_keep_alive(state, lanes), name="keep-alive"),
        asyncio.create_task(_report(settings, state, lanes, poison), name="report"),
        asyncio.create_task(Cancellations(nc, js, state, poison).run(), name="cancellations"),
        asyncio.create_task(_keep_connected(nc), name="connection"),
        asyncio.create_task(_listen(state, settings.stop_timeout_s), name="pool"),
        asyncio.create_task(_restart(settings, state, stop), name="restart"),
    ]
    for task in (*work, *side):
        task.add_done_callback(partial(_ended, state))
    await stop.wait()
    outcomes.end()
    await _give_back(lanes)
    await asyncio.gather(*work, return_exceptions=True)
    for task in side:
        task.cancel()
    executor.shutdown(wait=False)
    with suppress(*NATS_ERRORS):
        await nc.flush()
    await nc.close()
    return state.exit_code


def _ended(state: WorkerState, task: asyncio.Task[None]) -> None:
    """End the worker when one of its tasks ends: a partial worker is worse than a fresh one."""
    if state.stop.is_set() or task.cancelled():
        return
    error = task.exception()
    report = {"part": task.get_name()} | (failure_fields(error) if error is not None else {})
    log.critical("a task of the worker ended; exiting", extra=report)
    state.end(1)


def _from_thread(
    loop: asyncio.AbstractEventLoop, tasks: set[asyncio.Task[None]], work: Coroutine[Any, Any, None]
) -> None:
    loop.call_soon_threadsafe(lambda: tasks.add(loop.create_task(work)))


async def _give_back(lanes: Sequence[JobRunner]) -> None:
    for lane in lanes:
        try:
            await lane.stop()
        except NATS_ERRORS:
            log.warning("jobs not given back; they are redelivered after the acknowledgement timeout")


async def _end_overdue(
    late: Sequence[Run], state: WorkerState, lanes: Sequence[JobRunner], outcomes: JobCompletion
) -> None:
    """Record how overrunning jobs ended, give back the others, and exit: their thread cannot be killed."""
    state.end(RUN_TIMED_OUT)
    outcomes.end()
    report = set()
    for run in late:
        for taken in run.taken:
            report.add(taken.message.reply)
            try:
                if len(run.taken) == 1:
                    await outcomes.fail(taken, RunTimeoutError(f"did not finish within {run.limit_s:g} s"))
                else:
                    await outcomes.give_back(taken, alone=True)
            except (UnavailableError, *NATS_ERRORS):
                log.warning("timeout not recorded", extra={"job_id": taken.job.id})
    await _give_back(lanes)
    for reply, message in list(state.held.items()):
        if reply not in report:
            with suppress(*NATS_ERRORS):
                await message.nak()
    with suppress(*NATS_ERRORS):
        await lanes[0].nc.flush()
    state.runs.journal.running([])
    os._exit(RUN_TIMED_OUT)


async def _keep_alive(state: WorkerState, lanes: Sequence[JobRunner]) -> None:
    """Extend the acknowledgement deadline of the jobs here, including those queued behind a long one."""
    while True:
        await asyncio.sleep(KEEP_ALIVE_S)
        waiting = [message for lane in lanes for puller in lane.pullers for message in puller.ready]
        for message in [*state.held.values(), *waiting]:
            try:
                await message.in_progress()
            except NATS_ERRORS:
                break


async def _report(
    settings: WorkerSettings, state: WorkerState, lanes: Sequence[BatchRunner | ContinuousRunner], poison: PoisonRule
) -> None:
    """Write one JSON line to standard output whenever there is news for the pool."""
    started_at, loop = utc_now(), asyncio.get_running_loop()
    pipe = StatusPipe(sys.stdout.fileno())
    while True:
        running_for = loop.time() - state.batch_started if state.batch_started is not None else 0.0
        status = WorkerStatus(
            worker=settings.worker,
            device=settings.worker_device,
            pid=os.getpid(),
            state="draining" if state.stop.is_set() else "ready",
            started_at=started_at,
            jobs_done=state.jobs_done,
            jobs_failed=state.jobs_failed,
            busy_s=state.busy_s + running_for,
            running=list(state.running)[:64],
            models=MODEL_CACHE.names,
            memory_bytes=settings.device_memory_bytes,
            devices=settings.devices_per_worker,
            accelerator="cpu" if settings.torch_device == "cpu" else "gpu",
            share=state.share,
            together=max((lane.together for lane in lanes), default=1),
            done_by_kind=dict(state.done_by_kind),
            after_failing_on=dict(state.after_failing_on.most_common(MAX_LISTED_JOBS)),
            poison=poison.total,
        )
        pipe.send(status.model_dump_json())
        end_by_itself_later()
        await asyncio.sleep(REPORT_S)


async def _listen(state: WorkerState, stop_timeout_s: float) -> None:
    """Read the pool's lines: the device's share of a batch, the batch delay, the simulated speed.

    A worker exits when its pool does. One that was started by hand has no pool.
    """
    if not stat.S_ISFIFO(os.fstat(sys.stdin.fileno()).st_mode):
        await asyncio.Event().wait()
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        with suppress(ValueError, KeyError, TypeError):
            report = json.loads(line)
            state.share = min(1.0, max(0.0, float(report["share"])))
            state.batch_delay_s = max(0.0, float(report["batch_delay_s"]))
            state.speed = min(1.0, max(SLOWEST, float(report["speed"])))
    if not state.stop.is_set():
        log.warning("the pool is gone; exiting")
    state.end()
    # Nobody is left to kill a worker whose thread hangs; this task is cancelled as soon as running jobs have ended.
    await asyncio.sleep(stop_timeout_s)
    log.error("running jobs did not end in time; exiting immediately")
    os._exit(1)


async def _restart(settings: WorkerSettings, state: WorkerState, stop: asyncio.Event) -> None:
    """Exit so that a fresh process takes over, when models are idle or the memory is exhausted.

    Models that were loaded before the first job are meant to stay.
    """
    loop = asyncio.get_running_loop()
    warm = set(MODEL_CACHE.names)
    state.last_job_at = loop.time()
    while not stop.is_set():
        await asyncio.sleep(min(1.0, settings.model_idle_s))
        rested_s = 0.0 if state.running else loop.time() - state.last_job_at
        idle = set(MODEL_CACHE.names) - warm and rested_s > settings.model_idle_s
        if idle or MODEL_CACHE.crowded:
            log.info("restarting to free memory", extra={"models": MODEL_CACHE.names, "crowded": MODEL_CACHE.crowded})
            state.end(RESTART)


async def _keep_connected(nc: Client) -> None:
    """Exit when the connection can never come back: the library may have stopped reconnecting silently."""
    loop = asyncio.get_running_loop()
    hope = loop.time()
    while True:
        if can_come_back(nc):
            hope = loop.time()
        elif loop.time() - hope > STUCK_S:
            log.critical("NATS client neither connected nor reconnecting; exiting")
            os._exit(1)
        await asyncio.sleep(0.5)

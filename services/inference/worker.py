"""A worker process: its lanes, its heartbeat to the pool, its end.

It speaks to its pool by JSON lines on standard output and drains on SIGTERM: what runs is
finished, what was not begun is given back.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import nats
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.kv import KV_DEL, KV_PURGE
from pydantic import ValidationError

from services.inference.kinds import registry
from services.inference.lane import NATS_ERRORS, Lane, WorkerState
from services.inference.outcomes import JobOutcomes
from services.inference.settings import WorkerSettings
from shared import streams, subjects
from shared.clock import utc_now
from shared.connection import connection_options
from shared.errors import AutopilotError, SettingsError
from shared.messages.jobs import PRIORITIES, JobState, WorkerStatus
from shared.puller import Puller

log = logging.getLogger(__name__)

KEEP_ALIVE_S = streams.JOB_ACK_WAIT_S / 4
REPORT_S = 0.5


async def run_worker(settings: WorkerSettings) -> None:
    """Work until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)

    async def gone() -> None:
        if not stop.is_set():
            log.critical("nats connection closed for good, exiting")
            os._exit(1)

    options = connection_options(settings, f"autopilot-worker-{settings.worker}")
    nc = await nats.connect(settings.servers, closed_cb=gone, **options)
    js = nc.jetstream(timeout=5.0)
    state = WorkerState()
    outcomes = JobOutcomes(js, await js.key_value("jobs"))
    executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="device")
    lanes = [await _open_lane(name, settings, nc, outcomes, state, executor) for name in settings.pool_kinds]
    work = [asyncio.create_task(lane.run()) for lane in lanes]
    side = [
        asyncio.create_task(c) for c in (_keep_alive(state, lanes), _report(settings, state, stop), _watch(js, state))
    ]
    await stop.wait()
    for lane in lanes:
        try:
            await lane.stop()
        except NATS_ERRORS:
            log.warning("jobs not given back; they come again when overdue")
    await asyncio.gather(*work, return_exceptions=True)
    for task in side:
        task.cancel()
    executor.shutdown(wait=False)
    with suppress(*NATS_ERRORS):
        await nc.flush()
    await nc.close()


async def _open_lane(
    name: str,
    settings: WorkerSettings,
    nc: Client,
    outcomes: JobOutcomes,
    state: WorkerState,
    executor: ThreadPoolExecutor,
) -> Lane:
    kind = registry().get(name)
    if kind is None:
        raise SettingsError(f"AUTOPILOT_POOL_KINDS names {name!r}; there are {', '.join(sorted(registry()))}")
    js = nc.jetstream(timeout=5.0)
    configs = [streams.job_durable(name, priority) for priority in PRIORITIES]

    async def repair() -> None:
        try:
            await streams.ensure(js, settings.stream_replicas, deadline_s=5.0)
            for config in configs:
                await streams.ensure_consumer(js, "JOBS", config)
        except (AutopilotError, *NATS_ERRORS) as error:
            log.warning("consumers not there yet", extra={"error": type(error).__name__})

    await repair()
    arrived = asyncio.Event()
    pullers = [Puller(nc, "JOBS", config.durable_name or "", arrived) for config in configs]
    for puller in pullers:
        await puller.start()
    return Lane(kind, pullers, arrived, settings, nc, outcomes, state, executor, repair)


async def _keep_alive(state: WorkerState, lanes: list[Lane]) -> None:
    """Tell the server that jobs here are taken care of, also those that wait behind a long one."""
    while True:
        await asyncio.sleep(KEEP_ALIVE_S)
        waiting = [message for lane in lanes for puller in lane.pullers for message in puller.ready]
        for message in [*state.held.values(), *waiting]:
            try:
                await message.in_progress()
            except NATS_ERRORS:
                break


async def _report(settings: WorkerSettings, state: WorkerState, stop: asyncio.Event) -> None:
    """One JSON line on standard output whenever the pool should know."""
    started_at, loop = utc_now(), asyncio.get_running_loop()
    while True:
        running_for = loop.time() - state.batch_started if state.batch_started is not None else 0.0
        status = WorkerStatus(
            worker=settings.worker,
            device=settings.worker_device,
            pid=os.getpid(),
            state="draining" if stop.is_set() else "ready",
            started_at=started_at,
            jobs_done=state.jobs_done,
            jobs_failed=state.jobs_failed,
            busy_s=state.busy_s + running_for,
            running=list(state.running)[:64],
        )
        sys.stdout.write(json.dumps(status.model_dump(mode="json")) + "\n")
        sys.stdout.flush()
        await asyncio.sleep(REPORT_S)


async def _watch(js: JetStreamContext, state: WorkerState) -> None:
    """Learn of cancelled jobs."""
    while True:
        try:
            kv = await js.key_value("jobs")
            watcher = await kv.watchall(ignore_deletes=True)
            async for entry in watcher:
                if entry is None or entry.operation in (KV_DEL, KV_PURGE):
                    continue
                try:
                    if JobState.model_validate_json(entry.value or b"").cancelled:
                        state.cancelled.add(subjects.untoken(entry.key))
                except ValidationError:
                    continue
        except NATS_ERRORS as error:
            log.info("watch of cancellations restarts", extra={"error": type(error).__name__})
        await asyncio.sleep(1.0)

"""Create a worker's runners: each kind with its consumers, its admission and the way it runs."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor

from nats.aio.client import Client
from nats.js import JetStreamContext

from accelerator_autopilot.contracts import streams
from accelerator_autopilot.contracts.errors import AutopilotError
from accelerator_autopilot.contracts.messages.jobs import PRIORITIES, PoolStatus
from accelerator_autopilot.inference.jobs.capability import Capability
from accelerator_autopilot.inference.jobs.completion import JobCompletion
from accelerator_autopilot.inference.kinds import find
from accelerator_autopilot.inference.kinds.base import Kind
from accelerator_autopilot.inference.settings import WorkerSettings
from accelerator_autopilot.inference.worker.application.batch_runner import NATS_ERRORS, BatchRunner
from accelerator_autopilot.inference.worker.application.continuous_runner import ContinuousRunner
from accelerator_autopilot.inference.worker.application.job_admission import JobAdmission
from accelerator_autopilot.inference.worker.application.worker_state import WorkerState
from accelerator_autopilot.runtime.poison_messages import PoisonRule
from accelerator_autopilot.runtime.pull_subscription import PullSubscription
from accelerator_autopilot.transport import stream_setup
from accelerator_autopilot.transport.direct_reads import bucket_items

log = logging.getLogger(__name__)

POOLS_FRESH_S = 2.0


class RunnerFactory:
    """Creates runners over one connection."""

    def __init__(
        self,
        settings: WorkerSettings,
        nc: Client,
        js: JetStreamContext,
        outcomes: JobCompletion,
        state: WorkerState,
        executor: ThreadPoolExecutor,
        poison: PoisonRule,
    ) -> None:
        self._settings, self._nc, self._js = settings, nc, js
        self._outcomes, self._state, self._executor, self._poison = outcomes, state, executor, poison
        self._capability = Capability(
            frozenset(settings.offered),
            "cpu" if settings.torch_device == "cpu" else "gpu",
            settings.device_memory_bytes,
            settings.devices_per_worker,
            settings.pool,
        )
        self._pools: list[PoolStatus] = []
        self._pools_at = float("-inf")

    async def open(self, name: str) -> BatchRunner | ContinuousRunner:
        """Create the runner of a kind. Raises SettingsError for an unknown kind."""
        kind = find(name)
        configs = [streams.job_durable(name, priority) for priority in PRIORITIES]

        async def repair() -> None:
            try:
                await stream_setup.ensure(self._js, self._settings.stream_replicas, deadline_s=5.0)
                for config in configs:
                    await stream_setup.ensure_consumer(self._js, "JOBS", config)
            except (AutopilotError, *NATS_ERRORS) as error:
                log.warning("consumers not created yet", extra={"error": type(error).__name__})

        try:
            for config in configs:
                await stream_setup.ensure_consumer(self._js, "JOBS", config)
        except NATS_ERRORS:
            await repair()
        arrived = asyncio.Event()
        pullers = [PullSubscription(self._nc, "JOBS", config.durable_name or "", arrived) for config in configs]
        for puller in pullers:
            await puller.start()
        here = f"{self._settings.node}/{self._settings.worker_device}"
        intake = JobAdmission(name, kind.input, self._outcomes, self._state, self._capability, self._recent_pools, here)
        common = (
            name,
            pullers,
            arrived,
            self._settings,
            self._nc,
            intake,
            self._outcomes,
            self._state,
            repair,
            self._poison,
        )
        if isinstance(kind, Kind):
            return BatchRunner(*common, kind=kind, executor=self._executor)
        return ContinuousRunner(*common, kind=kind, slots=self._settings.generate_slots)

    async def _recent_pools(self) -> list[PoolStatus]:
        now = asyncio.get_running_loop().time()
        if now - self._pools_at > POOLS_FRESH_S:
            self._pools = list((await bucket_items(self._js, "pools", PoolStatus)).values())
            self._pools_at = now
        return self._pools

"""What every service process does besides its own work: connect, report its health, watch its consumers."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
from faststream import FastStream
from faststream._internal.cli.supervisors.utils import set_exit
from faststream.nats import NatsBroker
from nats.aio.client import Client
from nats.js import JetStreamContext
from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector

from accelerator_autopilot.contracts.errors import UnavailableError
from accelerator_autopilot.runtime.broker import client_of, expect_close, make_broker
from accelerator_autopilot.runtime.bus import BUS_ERRORS, Bus
from accelerator_autopilot.runtime.consumers import ConsumerWatchdog, Watched
from accelerator_autopilot.runtime.health import HealthServer, HealthState
from accelerator_autopilot.runtime.poison_messages import PoisonRule
from accelerator_autopilot.runtime.settings import ServiceSettings
from accelerator_autopilot.runtime.shutdown import GRACE_S, Ending
from accelerator_autopilot.runtime.stalled_consumers import Subscriptions
from accelerator_autopilot.runtime.supervision import TaskSupervisor, Work, beat, cancel_all
from accelerator_autopilot.runtime.unreadable_value_metrics import UnreadableValues
from accelerator_autopilot.transport import stream_setup
from accelerator_autopilot.transport.connection import can_come_back, keep_trying
from accelerator_autopilot.transport.wire_protocol import read_fast

log = logging.getLogger(__name__)

STUCK_S = 10.0
ANSWER_S = 1
BROKER_STOP_S = 6.0
STREAMS_EACH_S = 30.0
CONNECTION_HANG_TIMEOUT_S = 30.0
# Checking a consumer takes up to the server's response timeout.
WATCHDOG_HANG_TIMEOUT_S = 120.0


@dataclass
class Service:
    """A service process: its name, settings, broker, health and metrics."""

    name: str
    settings: ServiceSettings
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    grace_s: float = GRACE_S
    health: HealthState = field(init=False)
    broker: NatsBroker = field(init=False)
    bus: Bus = field(init=False)
    poison: PoisonRule = field(init=False)
    supervisor: TaskSupervisor = field(init=False)

    def __post_init__(self) -> None:
        self.health = HealthState(self.name)
        self.poison = PoisonRule(self.registry, lambda: self.bus.js)
        self.broker = make_broker(self.settings, self.name, self.registry, self.poison)
        self.bus = Bus(self.broker)
        self.supervisor = TaskSupervisor(self.health, self.registry)
        self.registry.register(UnreadableValues())
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)

    @asynccontextmanager
    async def running(self, watched: Sequence[Watched] = ()) -> AsyncIterator[JetStreamContext]:
        """Serve health, connect, create streams and consumers; for use inside a lifespan."""
        server = HealthServer(self.health, self.registry, self.settings.health_host, self.settings.health_port)
        server.start()
        ticking = asyncio.create_task(self.health.keep_ticking())
        log.info("health", extra={"port": server.port})
        try:
            self.health.report("nats", ok=False, reason=f"no server answers yet at {self.settings.nats_url}")
            await self.broker.connect()
            client = client_of(self.broker)
            keep_trying(client)
            read_fast(client)
            self.supervise(
                "connection", lambda: self._watch_connection(client), hang_timeout_s=CONNECTION_HANG_TIMEOUT_S
            )
            js = self.bus.js
            watchdog = ConsumerWatchdog(
                js, watched, self.health, self.registry, self.settings.stream_replicas,
                Subscriptions(self.broker, self.registry),
            )  # fmt: skip
            await self._make_streams(js, watchdog)
            self.supervise("consumers", watchdog.run, hang_timeout_s=WATCHDOG_HANG_TIMEOUT_S)
            yield js
        finally:
            await self.end_tasks()
            ticking.cancel()
            server.stop()

    def supervise(self, name: str, work: Work, *, hang_timeout_s: float | None = None) -> None:
        """Run `work()` in the background, restart it when it fails or ends, and report readiness and metrics.

        With `hang_timeout_s` it must call `accelerator_autopilot.runtime.supervision.beat()` at least that often.
        """
        self.supervisor.start(name, work, hang_timeout_s=hang_timeout_s)

    async def _make_streams(self, js: JetStreamContext, watchdog: ConsumerWatchdog) -> None:
        """Create streams and consumers, retrying: a cluster may be electing a leader, a machine slow."""
        while True:
            try:
                s = self.settings
                await stream_setup.ensure(js, s.stream_replicas, deadline_s=STREAMS_EACH_S, results_mib=s.results_mib)
                await watchdog.create_all()
            except (UnavailableError, *BUS_ERRORS) as error:
                self.health.report("streams", ok=False, reason=f"not created yet: {type(error).__name__}: {error}")
                log.warning("streams not created yet; retrying", extra={"error": str(error)})
                await asyncio.sleep(1.0)
            else:
                self.health.report("streams", ok=True)
                return

    def app(self, lifespan: Callable[[], AbstractAsyncContextManager[None]]) -> FastStream:
        """Create the FastStream app of this service."""
        app = ServiceApp(self, lifespan)
        app.after_startup(self._started)
        app.on_shutdown(self.end_tasks)
        return app

    async def end_tasks(self) -> None:
        """Cancel background tasks."""
        expect_close()
        await cancel_all(self.supervisor.tasks)

    def _started(self) -> None:
        """Report that the service has started."""
        self.health.report("started", ok=True)
        log.info("ready")

    async def _watch_connection(self, client: Client) -> None:
        """Report the connection's state; exit when it can never come back."""
        loop = asyncio.get_running_loop()
        last_hope = loop.time()
        while True:
            beat()
            if client.is_connected:
                self.health.report("nats", ok=True)
            else:
                self.health.report("nats", ok=False, reason="not connected")
            if can_come_back(client):
                last_hope = loop.time()
            elif loop.time() - last_hope > STUCK_S:
                log.critical("NATS client neither connected nor reconnecting; exiting")
                os._exit(1)
            await asyncio.sleep(0.5)


class ServiceApp(FastStream):
    """Shuts down within its grace period, whatever the broker does: never connected, frozen or gone."""

    def __init__(self, service: Service, lifespan: Callable[[], AbstractAsyncContextManager[None]]) -> None:
        self._service, self._ending = service, Ending(service.grace_s)
        self._entered = False
        self._running: asyncio.Task[object] | None = None
        self._end = asyncio.Event()

        @asynccontextmanager
        async def entered() -> AsyncIterator[None]:
            async with lifespan():
                self._entered = True
                yield

        super().__init__(service.broker, lifespan=entered, logger=logging.getLogger("faststream"))

    def exit(self) -> None:
        """Shut down; immediately when called a second time."""
        self._ending.ask()
        expect_close()
        super().exit()
        self._end.set()
        if not self._entered and self._running is not None:
            self._running.cancel()

    async def run(
        self,
        log_level: int = logging.INFO,
        run_extra_options: dict[str, Any] | None = None,
        sleep_time: float = 0.1,  # noqa: ARG002  FastStream's: it looks so often whether it is to end, this is told
    ) -> None:
        """Serve until asked to stop; errors after that do not count as failures."""
        self._running = asyncio.current_task()
        try:
            await self._serve(log_level, run_extra_options or {})
        except asyncio.CancelledError:
            if not self._ending.asked:
                raise
        except Exception as error:
            if not self._ending.asked:
                raise
            log.warning("shutdown failed", extra={"error": type(error).__name__})

    async def _serve(self, log_level: int, options: dict[str, Any]) -> None:
        """FastStream's `run`, but woken on shutdown, where the original polls ten times a second."""
        set_exit(lambda *_: self.exit(), sync=False)
        async with self.lifespan_context(**options):
            try:
                async with anyio.create_task_group() as group:
                    group.start_soon(self._startup, log_level, options)
                    await self._end.wait()
                    await self._shutdown(log_level)
                    group.cancel_scope.cancel()
            except ExceptionGroup as failed:
                for error in failed.exceptions:
                    raise error from None

    async def stop(self) -> None:
        """Stop the handlers gracefully if the broker answers; else the connection ends with the process."""
        try:
            if await self._answers():
                async with asyncio.timeout(max(BROKER_STOP_S, self._service.grace_s / 2)):
                    await super().stop()
                return
            log.warning("the broker does not answer; shutting down without it")
        except (TimeoutError, ExceptionGroup, *BUS_ERRORS) as error:
            log.warning("connection not closed cleanly", extra={"error": type(error).__name__})
        await self._service.end_tasks()

    async def _answers(self) -> bool:
        try:
            client = client_of(self._service.broker)
            if client.is_connected:
                await client.flush(timeout=ANSWER_S)
                return True
        except (AttributeError, TimeoutError, *BUS_ERRORS):
            return False
        return False

"""What every service process does besides its own work: connect, tell its health, watch its consumers."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from faststream import FastStream
from faststream.nats import NatsBroker
from nats.aio.client import Client
from nats.js import JetStreamContext
from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector

from shared import streams
from shared.broker import client_of, expect_close, make_broker
from shared.bus import Bus
from shared.consuming import ConsumerWatchdog, Watched
from shared.health import HealthServer, HealthState
from shared.poison import PoisonRule
from shared.settings import ServiceSettings
from shared.supervision import TaskSupervisor, Work
from shared.unreadable import UnreadableValues

log = logging.getLogger(__name__)

STUCK_S = 10.0


async def cancel_all(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel tasks until they end: before Python 3.12 `wait_for` may swallow a cancellation."""
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=0.5)


@dataclass
class Service:
    """One service process: its name, settings, broker, health and metrics."""

    name: str
    settings: ServiceSettings
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    health: HealthState = field(init=False)
    broker: NatsBroker = field(init=False)
    bus: Bus = field(init=False)
    poison: PoisonRule = field(init=False)
    supervisor: TaskSupervisor = field(init=False)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

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
        """Serve health, connect, make sure of streams and consumers; for use inside a lifespan."""
        server = HealthServer(self.health, self.registry, self.settings.health_host, self.settings.health_port)
        server.start()
        ticking = asyncio.create_task(self.health.keep_ticking())
        log.info("health", extra={"port": server.port})
        try:
            await self.broker.connect()
            js = self.bus.js
            await streams.ensure(js, self.settings.stream_replicas)
            watchdog = ConsumerWatchdog(js, watched, self.health, self.registry, self.settings.stream_replicas)
            await watchdog.create_all()
            self.spawn(watchdog.run())
            self.spawn(self._watch_connection(client_of(self.broker)))
            yield js
        finally:
            await self._stop()
            ticking.cancel()
            server.stop()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something beside the handlers; it is cancelled before the connection closes."""
        self._tasks.append(asyncio.create_task(self._guard(work)))

    def supervise(self, name: str, work: Work, *, standstill_s: float | None = None) -> None:
        """Run `work()` beside the handlers, start it again when it fails or ends, and tell readiness and metrics.

        With `standstill_s` it must call `shared.supervision.beat()` at least that often.
        """
        self.supervisor.start(name, work, standstill_s=standstill_s)

    async def _guard(self, work: Coroutine[Any, Any, None]) -> None:
        """End the process when a part of it dies: half a service would be worse than a restart."""
        try:
            await work
        except Exception:
            log.critical("background work failed, exiting", exc_info=True)
            os._exit(1)

    def app(self, lifespan: Callable[[], AbstractAsyncContextManager[None]]) -> FastStream:
        """The FastStream app of this service."""
        app = FastStream(self.broker, lifespan=lifespan, logger=logging.getLogger("faststream"))
        app.after_startup(self._started)
        app.on_shutdown(self._stop)
        return app

    async def _stop(self) -> None:
        expect_close()
        await cancel_all([*self._tasks, *self.supervisor.tasks])

    def _started(self) -> None:
        """Say that the service does its work now."""
        self.health.report("started", ok=True)
        log.info("ready")

    async def _watch_connection(self, client: Client) -> None:
        """Tell the connection's state; end the process when it can never come back."""
        loop = asyncio.get_running_loop()
        last_hope = loop.time()
        while True:
            if client.is_connected:
                self.health.report("nats", ok=True)
            else:
                self.health.report("nats", ok=False, reason="not connected")
            if client.is_connected or client.is_reconnecting:
                last_hope = loop.time()
            elif loop.time() - last_hope > STUCK_S:
                log.critical("nats client neither connected nor reconnecting, exiting")
                os._exit(1)
            await asyncio.sleep(0.5)

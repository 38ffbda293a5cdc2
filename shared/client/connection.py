"""The client: one connection, and what can be done over it by topic."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

import nats
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js import JetStreamContext

from shared.client.alerts import Alerts
from shared.client.batches import Batches
from shared.client.dead import DeadJobs
from shared.client.fleet import Fleet
from shared.client.jobs import Jobs
from shared.client.steering import Steering
from shared.connection import connection_options
from shared.errors import UnavailableError
from shared.settings import NatsSettings

CONNECT_TIMEOUT_S = 4.0


class AutopilotClient:
    """Talks to a running Autopilot.

    >>> async with AutopilotClient(NatsSettings()) as autopilot:        # doctest: +SKIP
    ...     handle = await autopilot.jobs.submit("echo", {"text": "hello"})
    ...     result = await handle.wait(timeout_s=10)
    """

    def __init__(self, settings: NatsSettings, *, name: str = "client", actor: str = "operator") -> None:
        self._settings, self._name, self._actor = settings, name, actor
        self._nc: Client | None = None

    async def __aenter__(self) -> Self:
        """Connect. Raises UnavailableError when no server answers."""
        options = connection_options(self._settings, f"autopilot-{self._name}")
        seen: list[Exception] = []

        async def remember(error: Exception) -> None:
            seen[:] = [error]

        options["error_cb"] = remember
        try:
            # The library tries for ever, which is right once connected; a first time must end.
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                self._nc = await nats.connect(self._settings.servers, **options)
        except (NatsError, OSError) as error:
            cause = seen[0] if seen else error
            text = f"no NATS server answers at {self._settings.nats_url}: {type(cause).__name__}: {cause}"
            raise UnavailableError(text) from error
        js = self._nc.jetstream(timeout=5.0)
        self.js: JetStreamContext = js
        self.jobs = Jobs(self._nc, js, self._actor)
        self.batches = Batches(self._nc, js, self.jobs, self._actor)
        self.dead = DeadJobs(js, self.jobs)
        self.fleet = Fleet(self._nc, js)
        self.alerts = Alerts(self._nc, js, self._actor)
        self.steering = Steering(self._nc, js, self._actor)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connection."""
        if self._nc is not None:
            await self._nc.close()

    @property
    def connected(self) -> bool:
        """Whether the server answers right now."""
        return self._nc is not None and self._nc.is_connected

    @property
    def nc(self) -> Client:
        """The nats-py client underneath."""
        if self._nc is None:
            raise UnavailableError("the client is not connected: use it in 'async with'")
        return self._nc

"""The client: one connection, and its functions by topic."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js import JetStreamContext

from accelerator_autopilot.client.alerts import Alerts
from accelerator_autopilot.client.batches import Batches
from accelerator_autopilot.client.dead_letters import DeadJobs
from accelerator_autopilot.client.fleet import Fleet
from accelerator_autopilot.client.jobs import Jobs
from accelerator_autopilot.client.steering import Steering
from accelerator_autopilot.contracts.errors import UnavailableError
from accelerator_autopilot.contracts.projects import DEFAULT_PROJECT, check_project
from accelerator_autopilot.transport import audit_records
from accelerator_autopilot.transport.connection import connection_options
from accelerator_autopilot.transport.settings import NatsSettings

CONNECT_TIMEOUT_S = 4.0
CLOSE_TIMEOUT_S = 2.0
START_ONE = "`autopilot up` starts one on this machine"


class AutopilotClient:
    """Talks to a running Autopilot.

    >>> async with AutopilotClient(NatsSettings()) as autopilot:        # doctest: +SKIP
    ...     handle = await autopilot.jobs.submit("echo", {"text": "hello"})
    ...     result = await handle.wait(timeout_s=10)
    """

    def __init__(
        self,
        settings: NatsSettings,
        *,
        name: str = "client",
        actor: str = "operator",
        project: str = DEFAULT_PROJECT,
        on_closed: Callable[[], Awaitable[None]] | None = None,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
    ) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._settings, self._name, self._actor, self._on_closed = settings, name, actor, on_closed
        self._project = check_project(project)
        self._nc: Client | None = None

    async def __aenter__(self) -> Self:
        """Connect. Raises UnavailableError when no server answers."""
        options = connection_options(self._settings, f"autopilot-{self._name}")
        seen: list[Exception] = []

        connected = False

        async def remember(error: Exception) -> None:
            seen[:] = [error]

        async def closed() -> None:
            # A failed first attempt closes the connection too, and is reported elsewhere.
            if connected and self._on_closed is not None:
                await self._on_closed()

        options |= {"error_cb": remember, "closed_cb": closed}
        nc = Client()
        try:
            # The library retries forever, which is right once connected; the first attempt must end.
            async with asyncio.timeout(self._connect_timeout_s):
                await nc.connect(self._settings.servers, **options)
        except (NatsError, OSError) as error:
            # A server that rejects a client may close before its reason is read: its greeting says what it
            # requires.
            refused = bool(nc._server_info.get("auth_required"))  # noqa: SLF001  no other name
            await _close(nc)
            cause = seen[0] if seen else error
            raise UnavailableError(_why_not(self._settings.nats_url, cause, refused=refused)) from error
        except BaseException:
            await _close(nc)
            raise
        connected = True
        self._nc = nc
        js = nc.jetstream(timeout=5.0)
        self._bind(nc, js, Jobs(nc, js, self._actor, self._project))
        return self

    def _bind(self, nc: Client, js: JetStreamContext, jobs: Jobs) -> None:
        self.js: JetStreamContext = js
        self.jobs = jobs
        self.batches = Batches(nc, js, self.jobs, self._actor, self._project)
        self.dead = DeadJobs(js, self.jobs, self._project)
        self.fleet = Fleet(nc, js)
        self.alerts = Alerts(nc, js, self._actor, self._project)
        self.steering = Steering(nc, js, self._actor, self._project)

    def acting_as(self, actor: str, project: str | None = None) -> AutopilotClient:
        """Return the same connection acting for somebody else, for as long as this one is open."""
        other = AutopilotClient(self._settings, name=self._name, actor=actor, project=project or self._project)
        other._nc = self.nc
        other._bind(self.nc, self.js, self.jobs.acting_as(actor, other._project))
        return other

    def in_project(self, project: str) -> AutopilotClient:
        """Return the same connection and actor in another project."""
        return self.acting_as(self._actor, project)

    async def audit(self, action: str, target: str, /, **detail: str) -> None:
        """Record what the actor is about to do. Raises UnavailableError: then it must not be done."""
        await audit_records.write(self.js, audit_records.record(self._actor, action, target, self._project, **detail))

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connection."""
        if self._nc is not None:
            await _close(self._nc)

    @property
    def connected(self) -> bool:
        """Whether the server answers right now."""
        return self._nc is not None and self._nc.is_connected

    @property
    def nc(self) -> Client:
        """The underlying nats-py client."""
        if self._nc is None:
            raise UnavailableError("the client is not connected: use it in 'async with'")
        return self._nc


def _why_not(url: str, cause: Exception, *, refused: bool) -> str:
    """Explain why there is no connection, and what to do. A URL may contain a password, which is not repeated."""
    where = re.sub(r"//[^@/,]*@", "//", url)
    if refused or "authorization" in str(cause).lower():
        return f"the NATS server at {where} refuses this client ({cause}): it wants a token, a user or credentials"
    return f"no NATS server answers at {where}: {type(cause).__name__}: {cause}; {START_ONE}"


async def _close(nc: Client) -> None:
    """Close the connection, even when a hung server accepts no more bytes."""
    with suppress(TimeoutError, NatsError, OSError):
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await nc.close()

"""The client of asynchronous programs."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from accelerator_autopilot.client.aio.alerts import AsyncAlerts
from accelerator_autopilot.client.aio.fleet import AsyncFleetMethods
from accelerator_autopilot.client.aio.jobs import AsyncJobMethods
from accelerator_autopilot.client.aio.kinds import AsyncKindMethods
from accelerator_autopilot.client.autopilot_client import AutopilotClient
from accelerator_autopilot.client.connect_settings import connect_settings, default_actor, default_project
from accelerator_autopilot.client.result_watcher import ResultWatcher
from accelerator_autopilot.transport.settings import NatsSettings


class AsyncClient(AsyncKindMethods, AsyncJobMethods, AsyncFleetMethods):
    """A connection to a fleet, for `async with` or `await`."""

    def __init__(self, settings: NatsSettings, *, name: str, actor: str, project: str, timeout: float) -> None:
        super().__init__(AutopilotClient(settings, name=name, actor=actor, project=project, connect_timeout_s=timeout))

    @property
    def alerts(self) -> AsyncAlerts:
        """Alerts, silences and subscriptions."""
        return AsyncAlerts(self._autopilot)

    async def open(self) -> Self:
        """Connect. Raises UnavailableError that says what to start when no server answers."""
        await self._connection.__aenter__()
        self._results = ResultWatcher(self._connection.nc, self._connection.jobs)
        return self

    async def close(self) -> None:
        """Close the connection. Jobs continue; pending waits raise UnavailableError."""
        if self._results is not None:
            await self._results.close()
            self._results = None
            await self._connection.__aexit__(None, None, None)

    @property
    def connected(self) -> bool:
        """Whether the server answers right now; the client reconnects by itself."""
        return self._connection.connected

    async def __aenter__(self) -> Self:
        """Connect. Raises UnavailableError when no server answers."""
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connection."""
        await self.close()

    def __await__(self) -> Generator[Any, None, Self]:
        """Connect, where `async with` does not fit; `close` ends it."""
        return self.open().__await__()


def connect_async(
    url: str | Sequence[str] | None = None,
    *,
    token: str | None = None,
    user: str | None = None,
    password: str | None = None,
    credentials: str | Path | None = None,
    ca: str | Path | None = None,
    certificate: str | Path | None = None,
    key: str | Path | None = None,
    actor: str | None = None,
    project: str | None = None,
    name: str = "client",
    timeout: float = 4.0,
) -> AsyncClient:
    """Make a client for asynchronous programs: use it in `async with`, or await it and `close` it at the end.

    Without arguments it connects to what the AUTOPILOT_NATS_* variables say, else to the product that `autopilot up`
    started on this machine. `url` is one address of a NATS server or several; `credentials`, `ca`, `certificate` and
    `key` are files; `actor` is who the audit says it was (the user of this process by default),
    `project` whose jobs these are (AUTOPILOT_PROJECT, else `default`). Connecting raises
    UnavailableError when no server answers within `timeout` seconds, and InvalidInputError for a wrong argument.
    """
    settings = connect_settings(
        url,
        token=token,
        user=user,
        password=password,
        credentials=credentials,
        ca=ca,
        certificate=certificate,
        key=key,
    )
    return AsyncClient(
        settings, name=name, actor=actor or default_actor(), project=project or default_project(), timeout=timeout
    )

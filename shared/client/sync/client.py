"""The client of programs without an event loop."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from accelerator_autopilot.client.aio.client import AsyncClient, connect_async
from accelerator_autopilot.client.loop_thread import LoopThread
from accelerator_autopilot.client.sync.alerts import Alerts
from accelerator_autopilot.client.sync.fleet import FleetMethods
from accelerator_autopilot.client.sync.jobs import JobMethods
from accelerator_autopilot.client.sync.kinds import KindMethods
from accelerator_autopilot.contracts.errors import UnavailableError


class Client(KindMethods, JobMethods, FleetMethods):
    """A connection to a fleet. Every method waits for its answer; threads may share one client."""

    def __init__(self, client: AsyncClient) -> None:
        super().__init__(LoopThread("autopilot-client"), client)
        try:
            self._wait(client.open())
        except BaseException:
            self._thread.stop()
            raise

    @property
    def alerts(self) -> Alerts:
        """Alerts, silences and subscriptions."""
        return Alerts(self._thread, self._client)

    @property
    def connected(self) -> bool:
        """Whether the server answers right now; the client reconnects by itself."""
        return self._client.connected

    def close(self) -> None:
        """Close the connection. Jobs continue; pending waits raise UnavailableError."""
        with suppress(UnavailableError):
            self._wait(self._client.close())
        self._thread.stop()

    def __enter__(self) -> Self:
        """Return the client itself, which is connected."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connection."""
        self.close()


def connect(
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
) -> Client:
    """Connect to a fleet. Use the client in `with`, or `close` it at the end.

    Without arguments it connects to what the AUTOPILOT_NATS_* variables say, else to the product that `autopilot up`
    started on this machine. `url` is one address of a NATS server or several; `credentials`, `ca`, `certificate` and
    `key` are files; `actor` is who the audit says it was (the user of this process by default),
    `project` whose jobs these are (AUTOPILOT_PROJECT, else `default`). Raises
    UnavailableError that says what to start when no server answers within `timeout` seconds, and InvalidInputError.
    """
    return Client(
        connect_async(
            url,
            token=token,
            user=user,
            password=password,
            credentials=credentials,
            ca=ca,
            certificate=certificate,
            key=key,
            actor=actor,
            project=project,
            name=name,
            timeout=timeout,
        )
    )

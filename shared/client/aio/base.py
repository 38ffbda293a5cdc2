"""What all parts of the asynchronous client share: the connection, once it is open."""

from __future__ import annotations

from accelerator_autopilot.client.autopilot_client import AutopilotClient
from accelerator_autopilot.client.result_watcher import ResultWatcher
from accelerator_autopilot.contracts.errors import UnavailableError

NOT_OPEN = "the client is not connected: use it in `async with`, or await it"


class Connected:
    """A connection that may not be open yet, or is closed already."""

    def __init__(self, autopilot: AutopilotClient) -> None:
        self._connection = autopilot
        self._results: ResultWatcher | None = None

    @property
    def _autopilot(self) -> AutopilotClient:
        if self._results is None:
            raise UnavailableError(NOT_OPEN)
        return self._connection

    @property
    def _watcher(self) -> ResultWatcher:
        if self._results is None:
            raise UnavailableError(NOT_OPEN)
        return self._results

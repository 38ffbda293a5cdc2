"""Sources whose driver may load after the agent, or hang while it is opened: tried at each discovery until it opens."""

from __future__ import annotations

import logging
from collections.abc import Callable

from services.telemetry.ports import DeviceSource, Sample, SourceEvent
from shared.errors import UnavailableError
from shared.messages.telemetry import DeviceInfo

log = logging.getLogger(__name__)


class AwaitedSource:
    """Stands for a source until `open_source` gives it; that raises UnavailableError while there is none.

    `opened` is the source itself from then on. `absent` says that the last try found none: before the
    first try, and while one has not returned, that is not known.
    """

    def __init__(self, name: str, open_source: Callable[[], DeviceSource]) -> None:
        self.name, self._open = name, open_source
        self.opened: DeviceSource | None = None
        self.absent = False
        self._told = ""

    def discover(self) -> list[DeviceInfo]:
        """Try to open the source, and look for its devices; none while there is no source."""
        if self.opened is None:
            try:
                self.opened = self._open()
            except UnavailableError as error:
                self.absent = True
                if str(error) != self._told:
                    self._told = str(error)
                    log.info("source not there", extra={"source": self.name, "reason": self._told})
                return []
            self.absent = False
        return self.opened.discover()

    def sample(self) -> dict[str, Sample]:
        """Readings of the source, none while there is no source."""
        return self.opened.sample() if self.opened is not None else {}

    def poll_events(self) -> list[SourceEvent]:
        """Events of the source, none while there is no source."""
        return self.opened.poll_events() if self.opened is not None else []

    def close(self) -> None:
        """Let go of the driver."""
        if self.opened is not None:
            self.opened.close()

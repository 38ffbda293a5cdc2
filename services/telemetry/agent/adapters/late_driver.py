"""Sources whose driver may load after the agent, hang while it is opened, or has to be let go of for an upgrade.

One that is not open is tried at each discovery.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from accelerator_autopilot.contracts.errors import UnavailableError
from accelerator_autopilot.contracts.messages.telemetry import DeviceInfo
from accelerator_autopilot.telemetry.agent.ports import DeviceSource
from accelerator_autopilot.telemetry.samples import Sample, SourceEvent

log = logging.getLogger(__name__)


class LateDriverSource:
    """Stands for a source until `open_source` gives it; that raises UnavailableError while there is none.

    `opened` is the source itself from then on. `absent` says that the last try found none: before the
    first try, and while one has not returned, that is not known. `released` says why the driver must not
    be used now; it is closed then, its devices stay known, and nothing is told of them.
    """

    def __init__(self, name: str, open_source: Callable[[], DeviceSource], released: Callable[[], str] = str) -> None:
        self.name, self._open, self.released = name, open_source, released
        self.opened: DeviceSource | None = None
        self.absent = False
        self._told = ""

    def discover(self) -> list[DeviceInfo]:
        """Try to open the source, and look for its devices; none while there is no source.

        Raises UnavailableError while the driver is released.
        """
        self._let_go_if_asked()
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
        """Readings of the source, none while there is no source. Raises UnavailableError while it is released."""
        self._let_go_if_asked()
        return self.opened.sample() if self.opened is not None else {}

    def poll_events(self) -> list[SourceEvent]:
        """Events of the source, none while there is no source."""
        return self.opened.poll_events() if self.opened is not None else []

    def close(self) -> None:
        """Let go of the driver."""
        opened, self.opened = self.opened, None
        if opened is not None:
            opened.close()

    def _let_go_if_asked(self) -> None:
        reason = self.released()
        if not reason:
            return
        if self.opened is not None:
            log.warning("driver let go of", extra={"source": self.name, "reason": reason})
            self.close()
        raise UnavailableError(f"{self.name} {reason}")

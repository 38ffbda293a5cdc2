"""Sources whose driver may load after the agent, hang while being opened, or be released for an upgrade.

A source that is not open is retried at each discovery.
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
    """A placeholder for a source until `open_source` returns it; that raises UnavailableError while there is none.

    `opened` is the source itself from then on. `absent` means that the last attempt found none; it is False before
    the first attempt and while one is still running. `released` says why the driver must not be used now: it is
    closed, its devices stay known, and nothing is reported of them.
    """

    def __init__(self, name: str, open_source: Callable[[], DeviceSource], released: Callable[[], str] = str) -> None:
        self.name, self._open, self.released = name, open_source, released
        self.opened: DeviceSource | None = None
        self.absent = False
        self._logged = ""

    def discover(self) -> list[DeviceInfo]:
        """Try to open the source, and return its devices; none while there is no source.

        Raises UnavailableError while the driver is released.
        """
        self._let_go_if_asked()
        if self.opened is None:
            try:
                self.opened = self._open()
            except UnavailableError as error:
                self.absent = True
                if str(error) != self._logged:
                    self._logged = str(error)
                    log.info("source not available", extra={"source": self.name, "reason": self._logged})
                return []
            self.absent = False
        return self.opened.discover()

    def sample(self) -> dict[str, Sample]:
        """Return the source's samples, none while there is no source. Raises UnavailableError while it is released."""
        self._let_go_if_asked()
        return self.opened.sample() if self.opened is not None else {}

    def poll_events(self) -> list[SourceEvent]:
        """Return the source's events, none while there is no source."""
        return self.opened.poll_events() if self.opened is not None else []

    def close(self) -> None:
        """Release the driver."""
        opened, self.opened = self.opened, None
        if opened is not None:
            opened.close()

    def _let_go_if_asked(self) -> None:
        reason = self.released()
        if not reason:
            return
        if self.opened is not None:
            log.warning("driver released", extra={"source": self.name, "reason": reason})
            self.close()
        raise UnavailableError(f"{self.name} {reason}")

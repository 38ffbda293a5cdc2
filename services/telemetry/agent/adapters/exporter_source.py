"""Devices that another exporter already reads: its metrics page as a source.

The supported exporters are listed in `domain/exporter_names.py`. The page's own device numbers, addresses and hosts are
kept.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from accelerator_autopilot.contracts.errors import InvalidInputError, UnavailableError
from accelerator_autopilot.contracts.messages.telemetry import DeviceInfo
from accelerator_autopilot.telemetry.agent.adapters.scrape_page import Page, fetch_page
from accelerator_autopilot.telemetry.agent.domain.exporter_names import READ
from accelerator_autopilot.telemetry.agent.domain.plausibility import Plausible
from accelerator_autopilot.telemetry.agent.domain.scrape_readings import PageReading, read_page
from accelerator_autopilot.telemetry.agent.domain.scrape_state import PageDevices, PageXids
from accelerator_autopilot.telemetry.samples import Sample, SourceEvent

log = logging.getLogger(__name__)

# A page that lacks both devices and metrics counts as incomplete for this long; after that it is the new normal.
INCOMPLETE_FOR_S = 60.0
NAMED = 5
LOOPBACK = ("localhost", "127.0.0.1", "::1")
Fetch = Callable[[str], str]


class ExporterSource:
    """One exporter as a source. Its failures are not failures of its devices.

    `hosts` maps each device to the host that the page names; with `take_hosts` off, all belong to the agent's node.
    """

    is_driver = False

    def __init__(self, url: str, fetch: Fetch = fetch_page, *, take_hosts: bool = True) -> None:
        if not url.startswith(("http://", "https://")):
            raise InvalidInputError("scrape_urls", url, "must begin with http:// or https://")
        self.name = f"scrape {url}"
        self._url, self._fetch, self._take_hosts = url, fetch, take_hosts
        self._known, self._xids, self._plausible = PageDevices(), PageXids(), Plausible()
        self._events: list[SourceEvent] = []
        self._had: dict[str, set[str]] = {}
        self._wholes: set[str] = set()
        self._metrics: set[str] = set()
        self._half_since_s: float | None = None
        self.bad_lines = 0
        self.unknown_lines = 0

    @property
    def hosts(self) -> dict[str, str]:
        """The host of each device for which the page names one."""
        return self._known.hosts if self._take_hosts else {}

    @property
    def on_this_machine(self) -> bool:
        """Whether its devices are on this machine: the exporter is on the loopback and reports a single host."""
        return urlsplit(self._url).hostname in LOOPBACK and len(set(self._known.hosts.values())) <= 1

    def discover(self) -> list[DeviceInfo]:
        """Return the devices of the pages so far; the first call fetches a page.

        Raises UnavailableError like `sample`.
        """
        if not self._known.infos:
            self._read()
        return [info for _, info in sorted(self._known.infos.items(), key=lambda item: (item[1].index, item[0]))]

    def sample(self) -> dict[str, Sample]:
        """Fetch and translate the page. Raises UnavailableError for a missing, incomplete or unknown page."""
        return self._read()

    def _read(self) -> dict[str, Sample]:
        started = time.monotonic()
        try:
            page = Page(self._fetch(self._url))
        except OSError as error:
            raise UnavailableError(f"{self._url} does not answer: {error}") from error
        reading = read_page(page.lines())
        self._note_bad(page.bad + reading.misnamed)
        self._reject_unknown(reading)
        self._reject_incomplete(reading, started, cut=page.cut)
        self._known.take(reading, started)
        self._events += self._xids.take(reading)
        taken = {"read_time_s": time.monotonic() - started}
        found = {device: self._plausible.of(device, sample) for device, sample in reading.samples.items()}
        lacking = self._lacking(found)
        return {device: sample | taken | {"read_errors": lacking[device]} for device, sample in found.items()}

    def _lacking(self, samples: dict[str, Sample]) -> dict[str, float]:
        """Count, for each device, readings that others of its kind still have; what all lack was removed for all."""
        reported: dict[bool, set[str]] = {False: set(), True: set()}
        for device, sample in samples.items():
            reported[self._is_whole(device)] |= sample.keys()
        lacking = {}
        for device, sample in samples.items():
            had = self._had.setdefault(device, set())
            lacking[device] = float(len((had & reported[self._is_whole(device)]) - sample.keys()))
            had |= sample.keys()
        return lacking

    def _is_whole(self, device: str) -> bool:
        return self._known.infos[device].parent is None

    def _note_bad(self, bad: int) -> None:
        if bad and not self.bad_lines:
            log.warning("ignoring unreadable lines", extra={"url": self._url, "lines": bad})
        self.bad_lines += bad

    def _reject_unknown(self, reading: PageReading) -> None:
        """Raise for a page full of unknown metrics: it does not come from a supported exporter."""
        self.unknown_lines = reading.unknown.total()
        if reading.unknown and not reading.infos and not self._known.infos:
            names = ", ".join(sorted(reading.unknown)[:NAMED])
            raise UnavailableError(f"{self._url} has no known device metric, only {names}; supported are {READ}")

    def _reject_incomplete(self, reading: PageReading, now_s: float, *, cut: bool) -> None:
        """Raise for an incomplete page.

        A lost device removes its own lines; a truncated page lacks whole metrics, or all devices.
        """
        wholes = {device for device, info in reading.infos.items() if info.parent is None}
        lacking = bool(self._wholes - wholes)
        if lacking and (cut or not wholes or self._metrics - reading.metrics):
            self._half_since_s = now_s if self._half_since_s is None else self._half_since_s
            if cut or not wholes or now_s - self._half_since_s < INCOMPLETE_FOR_S:
                raise UnavailableError(
                    f"{self._url} returned an incomplete page: {len(wholes)} of {len(self._wholes)} devices"
                )
        self._half_since_s = None
        self._wholes, self._metrics = wholes, reading.metrics

    def poll_events(self) -> list[SourceEvent]:
        """Return the XIDs that the pages reported since the last call."""
        events, self._events = self._events, []
        return events

    def close(self) -> None:
        """Do nothing: no resources are held."""

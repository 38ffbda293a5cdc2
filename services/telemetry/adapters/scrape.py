"""Devices that another exporter already reads: a dcgm-exporter, a TPU's metrics, or another Autopilot agent.

dcgm-exporter's names and labels: its default-counters.csv; TPU names: Google Kubernetes Engine,
"TPU system metrics", as the TPU device plugin exports them.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import NamedTuple

from services.telemetry.adapters.metrics_page import Line, Page, fetch_page
from services.telemetry.ports import Sample, SourceEvent
from shared.errors import InvalidInputError, UnavailableError
from shared.messages.telemetry import DeviceInfo
from shared.metrics_catalogue import METRICS

log = logging.getLogger(__name__)

MOST_DEVICES = 1024
MOST_NAME_BYTES = 200
# A page that lacks devices and metrics at once is half of one, for this long; then it is how things are now.
HALF_FOR_S = 60.0
Fetch = Callable[[str], str]


class Mapping(NamedTuple):
    """Our metric = the exporter's value x scale."""

    metric: str
    scale: float


_DCGM = {m.dcgm: Mapping(m.name, 1 / m.dcgm_scale) for m in METRICS if m.dcgm}
_OWN = {m.prometheus: Mapping(m.name, 1.0) for m in METRICS}
_TPU = {
    "duty_cycle": Mapping("gpu_util_pct", 1.0),
    "tensorcore_utilization": Mapping("tensor_util_pct", 1.0),
    "memory_bandwidth_utilization": Mapping("dram_util_pct", 1.0),
    "memory_used": Mapping("memory_used_bytes", 1.0),
    "memory_total": Mapping("memory_total_bytes", 1.0),
}
MAPPINGS: dict[str, Mapping] = _DCGM | _OWN | _TPU
# Which label names the device, in the order of preference, and which tells its model.
_NAMES = ("UUID", "device", "accelerator_id", "gpu")
_MODELS = ("modelName", "model")
_VENDORS = {"DCGM_FI": "nvidia", "duty_cycle": "google"}


class ScrapeSource:
    """One exporter as a source. What it fails to tell says nothing about its devices."""

    is_driver = False

    def __init__(self, url: str, fetch: Fetch = fetch_page) -> None:
        if not url.startswith(("http://", "https://")):
            raise InvalidInputError("scrape_urls", url, "must begin with http:// or https://")
        self.name = f"scrape {url}"
        self._url, self._fetch = url, fetch
        self._models: dict[str, tuple[str, str]] = {}
        self._devices: set[str] = set()
        self._metrics: set[str] = set()
        self._half_since_s: float | None = None
        self.bad_lines = 0

    def discover(self) -> list[DeviceInfo]:
        """Devices of the last page; the first time a page is fetched."""
        if not self._models:
            self._read()
        return [
            DeviceInfo(device=device, index=index, model=model, vendor=vendor, source="scrape")
            for index, (device, (model, vendor)) in enumerate(sorted(self._models.items()))
        ]

    def sample(self) -> dict[str, Sample]:
        """Fetch and translate."""
        return self._read()

    def _read(self) -> dict[str, Sample]:
        """Raises UnavailableError for a page that does not come, and for half of one."""
        started = time.monotonic()
        try:
            page = Page(self._fetch(self._url))
        except OSError as error:
            raise UnavailableError(f"{self._url} does not answer: {error}") from error
        samples: dict[str, Sample] = {}
        metrics: set[str] = set()
        models: dict[str, tuple[str, str]] = {}
        for line in page.lines():
            mapping = MAPPINGS.get(line.name) or MAPPINGS.get(line.name.removesuffix("_total"))
            device = device_name(line.labels)
            if mapping is None or device is None or (device not in samples and len(samples) >= MOST_DEVICES):
                continue
            if len(device.encode()) > MOST_NAME_BYTES or "\0" in device:
                page.bad += 1
                continue
            sample = samples.setdefault(device, {})
            metrics.add(line.name)
            models[device] = _describe(line)
            value = line.value * mapping.scale
            if not is_blank(line) and math.isfinite(value):
                sample[mapping.metric] = value
        self._note_bad(page)
        self._refuse_half(page, set(samples), metrics, started)
        self._models |= models
        taken = time.monotonic() - started
        return {device: sample | {"read_time_s": taken} for device, sample in samples.items()}

    def _note_bad(self, page: Page) -> None:
        if page.bad and not self.bad_lines:
            log.warning("lines that cannot be read are left out", extra={"url": self._url, "lines": page.bad})
        self.bad_lines += page.bad

    def _refuse_half(self, page: Page, devices: set[str], metrics: set[str], now_s: float) -> None:
        """A lost device takes its lines along; a page that is cut off takes whole metrics, or all devices, too."""
        lacking = bool(self._devices - devices)
        if lacking and (page.cut or not devices or self._metrics - metrics):
            self._half_since_s = now_s if self._half_since_s is None else self._half_since_s
            if page.cut or not devices or now_s - self._half_since_s < HALF_FOR_S:
                raise UnavailableError(f"{self._url} gives half a page: {len(devices)} of {len(self._devices)} devices")
        self._half_since_s = None
        self._devices, self._metrics = devices, metrics

    def poll_events(self) -> list[SourceEvent]:
        """A page of metrics holds last values: an XID there is no event, and its time is not known."""
        return []

    def close(self) -> None:
        """Nothing is held."""


def device_name(labels: dict[str, str]) -> str | None:
    """The device that a line is about; an instance of MIG has a name of its own."""
    found = next((labels[name] for name in _NAMES if labels.get(name)), None)
    instance = labels.get("GPU_I_ID")
    return f"{found}/{instance}" if found and instance else found


def is_blank(line: Line) -> bool:
    """Whether DCGM says with this number that it has none (dcgm_structs.h, DCGM_INT32_BLANK and its like)."""
    if not line.name.startswith("DCGM_"):
        return False
    value = line.value
    return 0x7FFFFFF0 <= value <= 0x7FFFFFFF or 2.0**47 <= value < 2.0**47 + 16 or value >= 2.0**62


def _describe(line: Line) -> tuple[str, str]:
    vendor = next((v for prefix, v in _VENDORS.items() if line.name.startswith(prefix)), "unknown")
    model = next((line.labels[n] for n in _MODELS if line.labels.get(n)), "unknown")
    return model[:MOST_NAME_BYTES], vendor

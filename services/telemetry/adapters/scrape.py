"""Devices that another exporter already reads: a dcgm-exporter, a TPU's metrics, or another Autopilot agent.

dcgm-exporter's names and labels: its default-counters.csv; TPU names: Google Kubernetes Engine,
"TPU system metrics", as the TPU device plugin exports them.
"""

from __future__ import annotations

import logging
import time
import urllib.request
from collections.abc import Callable
from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from services.telemetry.ports import Sample, SourceEvent
from shared.errors import InvalidInputError
from shared.messages.telemetry import DeviceInfo
from shared.metrics_catalogue import METRICS

log = logging.getLogger(__name__)

TIMEOUT_S = 2.0
MOST_DEVICES = 1024
Fetch = Callable[[str], str]


class Mapping(NamedTuple):
    """Our metric = the exporter's value x scale."""

    metric: str
    scale: float


_DCGM = {m.dcgm: Mapping(m.name, 1 / m.dcgm_scale) for m in METRICS if m.dcgm}
_OWN = {f"autopilot_device_{m.name}": Mapping(m.name, 1.0) for m in METRICS}
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


def fetch_text(url: str) -> str:
    """A page of metrics. Raises OSError."""
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as reply:  # noqa: S310  the scheme is checked by the source
        return str(reply.read(16 * 2**20), "utf-8", "replace")


class ScrapeSource:
    """One exporter as a source."""

    def __init__(self, url: str, fetch: Fetch = fetch_text) -> None:
        if not url.startswith(("http://", "https://")):
            raise InvalidInputError("scrape_urls", url, "must begin with http:// or https://")
        self.name = f"scrape {url}"
        self._url, self._fetch = url, fetch
        self._models: dict[str, tuple[str, str]] = {}

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
        started = time.monotonic()
        try:
            page = self._fetch(self._url)
        except OSError as error:
            log.warning("exporter does not answer", extra={"url": self._url, "error": str(error)})
            return {}
        samples: dict[str, Sample] = {}
        for family in text_string_to_metric_families(page):
            for line in family.samples:
                mapping = MAPPINGS.get(line.name) or MAPPINGS.get(line.name.removesuffix("_total"))
                device = device_name(line.labels)
                if mapping is None or device is None or (device not in samples and len(samples) >= MOST_DEVICES):
                    continue
                samples.setdefault(device, {})[mapping.metric] = line.value * mapping.scale
                vendor = next((v for prefix, v in _VENDORS.items() if line.name.startswith(prefix)), "unknown")
                model = next((line.labels[n] for n in _MODELS if line.labels.get(n)), "unknown")
                self._models[device] = (model, vendor)
        taken = time.monotonic() - started
        return {device: sample | {"read_time_s": taken} for device, sample in samples.items()}

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

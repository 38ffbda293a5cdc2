"""Devices on /metrics: under our names and, if enabled, under those of dcgm-exporter."""

from __future__ import annotations

import time
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from accelerator_autopilot.contracts.metric_catalogue import METRICS, Metric
from accelerator_autopilot.telemetry.device_metrics.dcgm_exposition import dcgm_families, dcgm_labels
from accelerator_autopilot.telemetry.device_metrics.latest_samples import Latest, LatestSamples

__all__ = ["LABELS", "DeviceCollector", "dcgm_labels"]
LABELS = ("node", "device", "model", "simulated")


class DeviceCollector(Collector):
    """Collects the latest sample of each device at scrape time."""

    def __init__(self, latest: LatestSamples, *, dcgm_names: bool) -> None:
        self._latest, self._dcgm_names = latest, dcgm_names

    def describe(self) -> list[Family]:
        """Return nothing: the set of metrics depends on the devices."""
        return []

    def collect(self) -> Iterator[Family]:
        """Return families of all metrics that any device has."""
        now_s = time.monotonic()
        devices = list(self._latest.fresh(now_s))
        for metric in METRICS:
            have = [d for d in devices if metric.name in d.sample]
            if have:
                yield _own(metric, have)
        if self._dcgm_names:
            yield from dcgm_families(devices, now_s)
        yield GaugeMetricFamily(
            "autopilot_devices_not_exported", "devices not exported because of the limit", float(self._latest.omitted)
        )


def _own(metric: Metric, devices: list[Latest]) -> Family:
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    family = kind(metric.prometheus, f"{metric.help} ({metric.unit})", labels=LABELS)
    for device in devices:
        model = device.info.model if device.info else ""
        simulated = "true" if device.info and device.info.simulated else "false"
        family.add_metric([device.node, device.device, model, simulated], device.sample[metric.name])
    return family

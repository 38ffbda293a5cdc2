"""Devices on /metrics: under our names and, switched on, under those of dcgm-exporter.

dcgm-exporter's labels are those of its 4.x releases, so that Grafana dashboard 12239 and alert
rules written for it keep working. It gives every field as an untyped number; so do we.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from services.telemetry.domain.latest import Latest, LatestSamples
from shared.metrics_catalogue import METRICS, Metric

LABELS = ("node", "device", "model", "simulated")
XID_FIELD = "DCGM_FI_DEV_XID_ERRORS"


class DeviceCollector(Collector):
    """Collects the last sample of each device when it is asked."""

    def __init__(self, latest: LatestSamples, *, dcgm_names: bool) -> None:
        self._latest, self._dcgm_names = latest, dcgm_names

    def describe(self) -> list[Family]:
        """Nothing: which metrics there are depends on the devices."""
        return []

    def collect(self) -> Iterator[Family]:
        """Families of all metrics that any device has."""
        devices = list(self._latest.fresh(time.monotonic()))
        for metric in METRICS:
            have = [d for d in devices if metric.name in d.sample]
            if have:
                yield _own(metric, have)
                if self._dcgm_names and metric.dcgm:
                    yield _dcgm(metric, have)
        if self._dcgm_names:
            xids = Family(XID_FIELD, "last XID", "gauge")
            for device in devices:
                if device.last_xid is not None:
                    xids.add_sample(XID_FIELD, dcgm_labels(device), float(device.last_xid))
            yield xids
        yield GaugeMetricFamily("autopilot_devices_untold", "devices beyond the limit", float(self._latest.untold))


def _own(metric: Metric, devices: list[Latest]) -> Family:
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    family = kind(metric.prometheus, f"{metric.help} ({metric.unit})", labels=LABELS)
    for device in devices:
        model = device.info.model if device.info else ""
        simulated = "true" if device.info and device.info.simulated else "false"
        family.add_metric([device.node, device.device, model, simulated], device.sample[metric.name])
    return family


def _dcgm(metric: Metric, devices: list[Latest]) -> Family:
    family = Family(metric.dcgm, metric.help, "gauge")
    for device in devices:
        family.add_sample(metric.dcgm, dcgm_labels(device), device.sample[metric.name] * metric.dcgm_scale)
    return family


def dcgm_labels(device: Latest) -> dict[str, str]:
    """The labels that dcgm-exporter gives a GPU."""
    info = device.info
    labels = {
        "gpu": str(info.index) if info else "",
        "UUID": (info.parent if info else None) or device.device,
        "pci_bus_id": (info.pci_bus_id if info else None) or "",
        "device": f"nvidia{info.index}" if info else "",
        "modelName": info.model if info else "",
        "Hostname": device.node,
        "DCGM_FI_DRIVER_VERSION": (info.driver if info else None) or "",
    }
    if info and info.parent:
        labels |= {"GPU_I_ID": str(info.index), "GPU_I_PROFILE": info.model.rpartition("MIG ")[2]}
    return labels

"""Export devices as OpenTelemetry metrics through the SDK: the latest samples, periodically."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource

from accelerator_autopilot.contracts.metric_catalogue import METRICS, Metric
from accelerator_autopilot.telemetry.device_metrics.latest_samples import LatestSamples

PERIOD_MS = 10_000
_UCUM = {"°C": "Cel", "B": "By"}  # OpenTelemetry uses the Unified Code for Units of Measure


def start_export(latest: LatestSamples, service: str, reader: MetricReader) -> MeterProvider:
    """Observe every metric of the catalogue; devices without a metric give no observation."""
    provider = MeterProvider([reader], Resource.create({"service.name": f"autopilot-{service}"}))
    meter = provider.get_meter("autopilot.devices")
    for metric in METRICS:
        make = meter.create_observable_counter if metric.kind == "counter" else meter.create_observable_gauge
        unit = _UCUM.get(metric.unit, metric.unit)
        make(f"autopilot.device.{metric.name}", [_observer(latest, metric)], unit, metric.help)
    return provider


def otlp_reader(endpoint: str) -> MetricReader:
    """Return a metric reader that exports to an OTLP/HTTP endpoint."""
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter  # noqa: PLC0415  extra 'otlp'

    return PeriodicExportingMetricReader(OTLPMetricExporter(endpoint), export_interval_millis=PERIOD_MS)


def _observer(latest: LatestSamples, metric: Metric) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observe(_: CallbackOptions) -> Iterable[Observation]:
        return [
            Observation(device.sample[metric.name], {"node": device.node, "device": device.device})
            for device in latest.fresh(time.monotonic())
            if metric.name in device.sample
        ]

    return observe

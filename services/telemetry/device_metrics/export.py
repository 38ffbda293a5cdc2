"""Export device metrics, shared by agent and recorder."""

from __future__ import annotations

from accelerator_autopilot.runtime.service import Service
from accelerator_autopilot.telemetry.device_metrics.latest_samples import LatestSamples
from accelerator_autopilot.telemetry.device_metrics.prometheus_exposition import DeviceCollector
from accelerator_autopilot.telemetry.settings import DeviceMetricsSettings


def start_device_export(service: Service, settings: DeviceMetricsSettings) -> LatestSamples:
    """Export devices on /metrics and, if an endpoint is set, over OTLP."""
    latest = LatestSamples(settings.device_metrics_limit)
    service.registry.register(DeviceCollector(latest, dcgm_names=settings.dcgm_names))
    if settings.otlp_metrics_endpoint:
        from accelerator_autopilot.telemetry.device_metrics.otel_export import otlp_reader, start_export  # noqa: PLC0415  memory of agents without it

        start_export(latest, service.name, otlp_reader(settings.otlp_metrics_endpoint))
    return latest

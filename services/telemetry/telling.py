"""Devices for those who ask, in the same way from agent and recorder."""

from __future__ import annotations

from services.telemetry.adapters.exposition import DeviceCollector
from services.telemetry.domain.latest import LatestSamples
from services.telemetry.settings import DeviceMetricsSettings
from shared.service import Service


def tell_devices(service: Service, settings: DeviceMetricsSettings) -> LatestSamples:
    """Devices for those who ask: on /metrics and, where an endpoint is set, over OTLP."""
    latest = LatestSamples(settings.device_metrics_limit)
    service.registry.register(DeviceCollector(latest, dcgm_names=settings.dcgm_names))
    if settings.otlp_metrics_endpoint:
        from services.telemetry.adapters.otel import otlp_reader, start_export  # noqa: PLC0415  memory of agents without it

        start_export(latest, service.name, otlp_reader(settings.otlp_metrics_endpoint))
    return latest

"""Prometheus metrics with bounded labels, and traces where an endpoint is configured."""

from __future__ import annotations

from typing import Any

from faststream.nats.prometheus import NatsPrometheusMiddleware
from prometheus_client import CollectorRegistry

from accelerator_autopilot.runtime.settings import ServiceSettings


def bounded_subject(subject: str) -> str:
    """Return the first two tokens of a subject: job, node and device ids must not become labels."""
    return ".".join(subject.split(".")[:2])


class _BoundedSettings:
    """FastStream's metrics settings provider with the subject shortened to a bounded label."""

    def __init__(self) -> None:
        self.messaging_system = "nats"

    def get_consume_attrs_from_message(self, msg: Any) -> dict[str, Any]:
        """Return labels and sizes of a received message or batch."""
        first = msg.raw_message[0] if isinstance(msg.raw_message, list) else msg.raw_message
        count = len(msg.raw_message) if isinstance(msg.raw_message, list) else 1
        subject = bounded_subject(getattr(first, "subject", "kv"))
        return {"destination_name": subject, "message_size": len(msg.body), "messages_count": count}

    def get_publish_destination_name_from_cmd(self, cmd: Any) -> str:
        """Return the label of a published message."""
        return bounded_subject(cmd.destination)


def middlewares(settings: ServiceSettings, service: str, registry: CollectorRegistry) -> list[Any]:
    """Return broker middlewares for metrics and, where an endpoint is configured, traces."""
    prometheus = NatsPrometheusMiddleware(registry=registry, app_name=service, metrics_prefix="autopilot")
    prometheus._settings_provider_factory = lambda _: _BoundedSettings()  # type: ignore[assignment,return-value]  # noqa: SLF001  the public class fixes the factory
    found: list[Any] = [prometheus]
    if settings.otlp_endpoint:
        found.append(_tracing(settings.otlp_endpoint, service))
    return found


def _tracing(endpoint: str, service: str) -> Any:
    """Imported only where enabled: an optional extra, and memory that an agent can save."""
    from faststream.nats.opentelemetry import NatsTelemetryMiddleware  # noqa: PLC0415
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    provider = TracerProvider(resource=Resource.create({"service.name": f"autopilot-{service}"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint)))
    return NatsTelemetryMiddleware(tracer_provider=provider)

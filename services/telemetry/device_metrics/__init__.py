"""The newest sample of each device as Prometheus, dcgm-exporter and OpenTelemetry metrics."""

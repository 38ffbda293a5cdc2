"""A metric of bucket values that could not be read."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from accelerator_autopilot.transport.unreadable_values import seen


class UnreadableValues(Collector):
    """`autopilot_kv_unreadable_total`, for the registry of a service."""

    def collect(self) -> Iterable[CounterMetricFamily]:
        """Return how often a bucket contained an unreadable value."""
        family = CounterMetricFamily(
            "autopilot_kv_unreadable", "bucket values that could not be decoded", labels=["bucket"]
        )
        for bucket, count in list(seen.items()):
            family.add_metric([bucket], count)
        yield family

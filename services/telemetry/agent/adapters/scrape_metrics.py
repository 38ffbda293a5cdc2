"""Parse quality of metrics pages, on the agent's own /metrics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from accelerator_autopilot.telemetry.agent.adapters.exporter_source import ExporterSource


class PageCollector(Collector):
    """Counts invalid lines of each exporter, and lines of its last page with unknown names."""

    def __init__(self, pages: Sequence[ExporterSource]) -> None:
        self._pages = pages

    def describe(self) -> list[Family]:
        """Return nothing: without exporters there is nothing to count."""
        return []

    def collect(self) -> Iterator[Family]:
        """Return both counts of each page."""
        if not self._pages:
            return
        bad = CounterMetricFamily("autopilot_scrape_lines_bad", "lines that could not be parsed", labels=("source",))
        unknown = GaugeMetricFamily(
            "autopilot_scrape_lines_unknown", "lines of the last page with an unknown metric name", labels=("source",)
        )
        for page in self._pages:
            bad.add_metric([page.name], float(page.bad_lines))
            unknown.add_metric([page.name], float(page.unknown_lines))
        yield bad
        yield unknown

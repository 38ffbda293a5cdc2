"""GPM: metrics that Hopper and newer measure between two samples of their performance monitors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pynvml

METRICS: dict[int, str] = {
    1: "engine_util_pct",
    2: "sm_util_pct",
    3: "sm_occupancy_pct",
    5: "tensor_util_pct",
    10: "dram_util_pct",
}
# These two are rates in MiB/s; they are integrated, so that frames carry counters as for other transfers.
TRANSFERS: dict[int, str] = {60: "nvlink_rx_bytes", 61: "nvlink_tx_bytes"}


class GpmReader:
    """Two samples of one device, taken alternately; each reading is the difference between them."""

    def __init__(self, take: Callable[[Any], Any]) -> None:
        self._take = take
        self._samples = [pynvml.nvmlGpmSampleAlloc(), pynvml.nvmlGpmSampleAlloc()]
        self._taken_at: float | None = None
        self._bytes = dict.fromkeys(TRANSFERS.values(), 0.0)

    def read(self, now_s: float) -> dict[str, float]:
        """Return means since the last reading; nothing the first time. Raises NVMLError."""
        self._take(self._samples[1])
        before, self._taken_at = self._taken_at, now_s
        if before is None:
            self._samples.reverse()
            return {}
        request = pynvml.c_nvmlGpmMetricsGet_t()
        request.version = pynvml.NVML_GPM_METRICS_GET_VERSION
        wanted = [*METRICS, *TRANSFERS]
        request.numMetrics = len(wanted)
        request.sample1, request.sample2 = self._samples
        for i, metric_id in enumerate(wanted):
            request.metrics[i].metricId = metric_id
        pynvml.nvmlGpmMetricsGet(request)
        self._samples.reverse()
        values: dict[str, float] = {}
        for i, metric_id in enumerate(wanted):
            answer = request.metrics[i]
            if answer.nvmlReturn != pynvml.NVML_SUCCESS or answer.value != answer.value:
                continue
            if metric_id in METRICS:
                values[METRICS[metric_id]] = float(answer.value)
            else:
                name = TRANSFERS[metric_id]
                self._bytes[name] += float(answer.value) * 2**20 * (now_s - before)
                values[name] = self._bytes[name]
        return values

    def close(self) -> None:
        """Free both samples."""
        for sample in self._samples:
            pynvml.nvmlGpmSampleFree(sample)

"""benchmark: measure another kind on the CPU, on one device and on all devices."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field

from accelerator_autopilot.contracts.dataframe_conversion import Tabular
from accelerator_autopilot.contracts.kinds.base import Payload, Result, examples

MAX_BATCH = 4096


class Measurement(BaseModel):
    """A measurement of one device, or of all together, at one batch size."""

    device: str
    batch_size: int
    items_per_s: float
    latency_p50_ms: float
    latency_max_ms: float
    joules_per_item: float | None
    speed_up: float


class BenchmarkResult(Result, Tabular):
    """Measurements, a report in Markdown and a plot in SVG."""

    kind: str
    measurements: list[Measurement]
    best: Measurement
    markdown: str
    plot_svg: str

    def rows(self) -> list[dict[str, Any]]:
        """One row per measurement."""
        return [m.model_dump() for m in self.measurements]


class Benchmark(Payload[BenchmarkResult]):
    """The kind and a payload, which is repeated in batches of each size."""

    kind_name = "benchmark"
    result_model = BenchmarkResult
    model_config = examples({"kind": "echo", "payload": {"text": "x"}, "batch_sizes": [1, 4], "repeats": 2})

    kind: str = Field(default="embed", max_length=200)
    payload: dict[str, Any] = {"texts": ["The quick brown fox jumps over the lazy dog."]}
    batch_sizes: list[Annotated[int, Field(ge=1, le=MAX_BATCH)]] = Field(
        default=[1, 8, 32], min_length=1, max_length=10
    )
    repeats: int = Field(default=5, ge=2, le=1000)
    devices: list[Annotated[str, Field(max_length=100)]] = Field(
        default=[], max_length=64, description="PyTorch device names; by default the CPU and every GPU of the worker"
    )

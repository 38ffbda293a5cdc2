"""benchmark: another kind on the CPU, one device and all devices: throughput, latency, energy, speed-up."""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ValidationError

from accelerator_autopilot.contracts.errors import InvalidInputError
from accelerator_autopilot.contracts.kinds.benchmark import Benchmark, BenchmarkResult, Measurement
from accelerator_autopilot.inference.adapters.energy_meter import energy_j
from accelerator_autopilot.inference.kinds.base import Kind, RunContext, each

MAX_RUN_S = 600.0


class BenchmarkKind:
    """One benchmark a job."""

    name = "benchmark"
    # Concurrent work would distort the measurement.
    undisturbed = True
    input = Benchmark
    output = BenchmarkResult
    max_batch = 1

    def run(self, inputs: Sequence[Benchmark], context: RunContext) -> list[BaseModel | BaseException]:
        """Measure for each input."""
        return each(lambda item, index: self._one(item, index, context), inputs)

    def _one(self, item: Benchmark, index: int, context: RunContext) -> BenchmarkResult:
        kind, payload = _subject(item)
        known = _devices(context)
        devices = list(dict.fromkeys(item.devices)) or known
        if unknown := [device for device in devices if device not in known]:
            raise InvalidInputError(
                "devices", unknown[0], f"is not a device of this worker; available: {', '.join(known)}"
            )
        rounds = [(name, [name]) for name in devices] + ([("all", devices[1:])] if len(devices) > 2 else [])
        measured: list[Measurement] = []
        for done, (name, together) in enumerate(rounds):
            for size in item.batch_sizes:
                first = measured[0].items_per_s if measured else None
                measured.append(_measure(kind, [payload] * size, name, together, item.repeats, context, first))
            context.progress(index, (done + 1) / len(rounds))
        best = max(measured, key=lambda m: m.items_per_s)
        return BenchmarkResult(
            kind=item.kind,
            measurements=measured,
            best=best,
            markdown=_markdown(item.kind, measured),
            plot_svg=_plot(measured),
        )


def _subject(item: Benchmark) -> tuple[Kind, Any]:
    from accelerator_autopilot.inference.kinds import registry  # noqa: PLC0415  the registry holds this kind too

    kind = registry().get(item.kind)
    if kind is None or item.kind == BenchmarkKind.name or not isinstance(kind, Kind):
        batched = sorted(n for n, k in registry().items() if isinstance(k, Kind) and n != BenchmarkKind.name)
        raise InvalidInputError("kind", item.kind, f"must be one of {', '.join(batched)}")
    try:
        return kind, kind.input.model_validate(item.payload)
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidInputError(f"payload.{'.'.join(map(str, first['loc']))}", "", first["msg"]) from error


def _devices(context: RunContext) -> list[str]:
    if not context.models.torch_device.startswith("cuda"):
        return list(dict.fromkeys(["cpu", context.models.torch_device]))
    import torch  # noqa: PLC0415  loaded anyway where there is a GPU

    return ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]


def _measure(
    kind: Kind, batch: list[Any], name: str, devices: list[str], repeats: int, context: RunContext, first: float | None
) -> Measurement:
    contexts = [
        replace(
            context,
            models=context.models.model_copy(update={"torch_device": device}),
            attempts=[1] * len(batch),
            progress=lambda *_: None,
            partial=lambda *_: None,
            tokens={},
        )
        for device in devices
    ]

    def once(own: RunContext) -> float:
        began = time.perf_counter()
        for outcome in kind.run(batch, own):
            if isinstance(outcome, Exception):
                raise outcome
        return time.perf_counter() - began

    def repeat(own: RunContext) -> list[float]:
        return [once(own) for _ in range(repeats)]

    for own in contexts:
        if once(own) * repeats > MAX_RUN_S:
            raise InvalidInputError("repeats", repeats, f"would take longer than {MAX_RUN_S:.0f} s")
    before, began = [energy_j(d) for d in devices], time.perf_counter()
    with ThreadPoolExecutor(len(contexts)) as threads:
        times = [t for of in threads.map(repeat, contexts) for t in of]
    took = time.perf_counter() - began
    spent = [
        b - a for a, b in zip(before, [energy_j(d) for d in devices], strict=True) if a is not None and b is not None
    ]
    items = len(batch) * repeats * len(devices)
    rate = items / took
    return Measurement(
        device=name,
        batch_size=len(batch),
        items_per_s=round(rate, 3),
        latency_p50_ms=round(statistics.median(times) * 1e3, 3),
        latency_max_ms=round(max(times) * 1e3, 3),
        joules_per_item=round(sum(spent) / items, 6) if len(spent) == len(devices) else None,
        speed_up=round(rate / first, 3) if first else 1.0,
    )


def _markdown(kind: str, measured: list[Measurement]) -> str:
    lines = [
        f"# Benchmark of {kind}",
        "",
        f"Speed-up against {measured[0].device} at batch size {measured[0].batch_size}.",
        "",
        "| device | batch | items/s | p50 ms | max ms | J/item | speed-up |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for m in measured:
        joules = "" if m.joules_per_item is None else f"{m.joules_per_item:.4g}"
        lines.append(
            f"| {m.device} | {m.batch_size} | {m.items_per_s:.1f} | {m.latency_p50_ms:.2f} | {m.latency_max_ms:.2f} | "
            f"{joules} | {m.speed_up:.2f} |"
        )
    return "\n".join(lines) + "\n"


def _plot(measured: list[Measurement]) -> str:
    from matplotlib.figure import Figure  # noqa: PLC0415  a worker starts faster without

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for device in dict.fromkeys(m.device for m in measured):
        own = sorted((m for m in measured if m.device == device), key=lambda m: m.batch_size)
        axes.plot([m.batch_size for m in own], [m.items_per_s for m in own], marker="o", label=device)
    axes.set_xscale("log", base=2)
    axes.set_xlabel("batch size")
    axes.set_ylabel("items per second")
    axes.legend()
    out = io.StringIO()
    figure.savefig(out, format="svg")
    return out.getvalue()


KIND = BenchmarkKind()

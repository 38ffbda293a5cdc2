"""Watts at rest and under load, and the energy counter against what the power readings add up to."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from accelerator_autopilot.telemetry.agent.adapters.nvml.source import NvmlSource
from tests.gpu_check.children import load

SETTLE_S = 3.0
Series = list[tuple[float, dict[str, float]]]


def watch(seconds: float, period_s: float) -> Series:
    """The first GPU's samples with their times, as the agent reads them."""
    source = NvmlSource()
    device = source.discover()[0].device
    series: Series = []
    began = time.monotonic()
    for tick in range(int(seconds / period_s) + 1):
        time.sleep(max(0.0, began + tick * period_s - time.monotonic()))
        sample = source.sample().get(device)
        if sample:
            series.append((time.monotonic(), sample))
    integral = source._devices[device].integral.energy_j
    series.append((time.monotonic(), {"integral_j": integral}))
    return series


def trapezoid_j(points: Sequence[tuple[float, float]]) -> float:
    """Power over time, as a collector adds it up that has nothing but the samples."""
    return sum((t1 - t0) * (p0 + p1) / 2 for (t0, p0), (t1, p1) in pairwise(points))


def summary(series: Series) -> dict[str, Any]:
    """Watts, and joules by the counter, by the agent's own integral and by adding samples up at 10 Hz and 1 Hz."""
    *samples, (_, last) = series
    power = [(at, s["power_w"]) for at, s in samples if "power_w" in s]
    counter = [(at, s["energy_j"]) for at, s in samples if "energy_j" in s]
    found: dict[str, Any] = {"samples": len(samples)}
    if power:
        watts = [p for _, p in power]
        found |= {"mean_w": statistics.fmean(watts), "least_w": min(watts), "most_w": max(watts)}
    instant = [s["power_instant_w"] for _, s in samples if "power_instant_w" in s]
    if instant:
        found["mean_instant_w"] = statistics.fmean(instant)
    if len(counter) > 1:
        spent = counter[-1][1] - counter[0][1]
        seconds = counter[-1][0] - counter[0][0]
        found |= {"counter_j": spent, "counter_mean_w": spent / seconds if seconds else None}
        if spent > 0:
            found |= {
                "integral_over_counter": last["integral_j"] / spent,
                "samples_over_counter": trapezoid_j(power) / spent,
                "samples_at_1_hz_over_counter": trapezoid_j(power[::10]) / spent,
            }
    return found


def at_rest(device: str, seconds: float) -> dict[str, Any]:
    """Watts without any context, and with one that does nothing."""
    bare = summary(watch(seconds, 0.1))
    with load("context", device):
        time.sleep(SETTLE_S)
        held = summary(watch(seconds, 0.1))
    return {"bare": bare, "with_context": held}


def under_load(device: str, seconds: float) -> dict[str, Any]:
    """The same under bursts of matrix products."""
    with load("bursts", device):
        return summary(watch(seconds, 0.1))

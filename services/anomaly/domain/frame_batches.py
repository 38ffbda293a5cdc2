"""Convert frames to batches of rows with at most one row per device."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from accelerator_autopilot.anomaly.domain.detection_engine import DetectionEngine
from accelerator_autopilot.anomaly.domain.last_values import Doubles, Floats, Slots
from accelerator_autopilot.anomaly.domain.metric_columns import matrix
from accelerator_autopilot.contracts.frames import TelemetryFrame


@dataclass(frozen=True)
class Batch:
    """Rows: slots, sample times in seconds since 1970, values [rows, COLUMNS], sampling periods."""

    slots: Slots
    at_s: Doubles
    values: Floats
    period_s: Doubles


def batches(watch: DetectionEngine, frames: Sequence[TelemetryFrame]) -> Iterator[Batch]:
    """Yield all ticks of all frames in order, with one tick of a node per batch."""
    waves: dict[int, dict[tuple[str, ...], list[tuple[TelemetryFrame, int]]]] = defaultdict(lambda: defaultdict(list))
    of_node: dict[str, int] = defaultdict(int)
    for frame in frames:
        for tick in range(frame.ticks):
            wave = of_node[frame.node]
            of_node[frame.node] = wave + 1
            waves[wave][frame.metrics].append((frame, tick))
    for wave in sorted(waves):
        parts = [_part(watch, metrics, ticks) for metrics, ticks in waves[wave].items()]
        yield Batch(
            np.concatenate([p.slots for p in parts]),
            np.concatenate([p.at_s for p in parts]),
            np.concatenate([p.values for p in parts]),
            np.concatenate([p.period_s for p in parts]),
        )


def _part(watch: DetectionEngine, metrics: tuple[str, ...], ticks: list[tuple[TelemetryFrame, int]]) -> Batch:
    counts = [len(frame.devices) for frame, _ in ticks]
    starts = np.array([frame.start_us / 1e6 + tick * frame.period_s for frame, tick in ticks])
    return Batch(
        np.concatenate([watch.slots(frame.node, frame.devices, frame.simulated) for frame, _ in ticks]),
        np.repeat(starts, counts),
        matrix(np.concatenate([frame.values[tick] for frame, tick in ticks]), metrics),
        np.repeat([frame.period_s for frame, _ in ticks], counts),
    )

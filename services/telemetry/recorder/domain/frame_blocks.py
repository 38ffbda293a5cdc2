"""Combine many frames into one block of rows: times, device ids and a matrix of values. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from accelerator_autopilot.contracts.frames import TelemetryFrame

DeviceIds = Callable[[TelemetryFrame], npt.NDArray[np.int32]]


@dataclass(frozen=True)
class SampleBlock:
    """Rows of samples: `at_us` [rows] since 1970 UTC, `device_ids` [rows], `values` [rows, metrics]."""

    metrics: tuple[str, ...]
    at_us: npt.NDArray[np.int64]
    device_ids: npt.NDArray[np.int32]
    values: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.at_us)

    def minutes_us(self) -> list[int]:
        """The starts of the minutes that the rows fall into."""
        return [int(m) for m in np.unique(self.at_us // 60_000_000 * 60_000_000)]


def stack(frames: Sequence[TelemetryFrame], device_ids: DeviceIds, known: Sequence[str]) -> SampleBlock:
    """Combine all frames, ordered by device and time, each sample once, with only the metrics in `known`.

    Metrics that a frame lacks are NaN. Of two samples of one device and time, the one of the later frame wins.
    """
    groups: dict[tuple[tuple[str, ...], int, int], list[TelemetryFrame]] = {}
    for frame in frames:
        groups.setdefault((frame.metrics, frame.ticks, len(frame.devices)), []).append(frame)
    present = {name for names, _, _ in groups for name in names}
    metrics = tuple(name for name in known if name in present)
    parts = [_stack_alike(group, device_ids, metrics) for group in groups.values()]
    if not parts or not metrics:
        empty = np.empty(0, np.int64)
        return SampleBlock(metrics, empty, empty.astype(np.int32), np.empty((0, len(metrics)), np.float32))
    at_us, ids, values = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    order = np.lexsort((at_us, ids))
    at_us, ids, values = at_us[order], ids[order], values[order]
    last = np.ones(len(ids), dtype=bool)
    last[:-1] = (ids[1:] != ids[:-1]) | (at_us[1:] != at_us[:-1])
    if not last.all():
        at_us, ids, values = at_us[last], ids[last], values[last]
    return SampleBlock(metrics, at_us, ids, values)


def _stack_alike(
    frames: list[TelemetryFrame], device_ids: DeviceIds, metrics: tuple[str, ...]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Combine frames of one shape: arrays of [frames, ticks, devices] flattened to rows."""
    first = frames[0]
    ticks, devices = first.ticks, len(first.devices)
    values = np.concatenate([frame.values for frame in frames]).reshape(-1, len(first.metrics))
    if first.metrics != metrics:
        values = _reorder(values, first.metrics, metrics)
    ids = np.concatenate([device_ids(frame) for frame in frames]).reshape(len(frames), 1, devices)
    starts = np.array([frame.start_us for frame in frames], np.int64)
    periods = np.array([frame.period_s for frame in frames]) * 1e6
    at_us = starts[:, None] + np.rint(np.arange(ticks)[None, :] * periods[:, None]).astype(np.int64)
    shape = (len(frames), ticks, devices)
    return np.broadcast_to(at_us[:, :, None], shape).ravel(), np.broadcast_to(ids, shape).ravel(), values


def _reorder(values: npt.NDArray[np.float32], have: tuple[str, ...], want: tuple[str, ...]) -> npt.NDArray[np.float32]:
    out = np.full((len(values), len(want)), np.nan, np.float32)
    position = {name: i for i, name in enumerate(have)}
    columns = [(i, position[name]) for i, name in enumerate(want) if name in position]
    out[:, [i for i, _ in columns]] = values[:, [j for _, j in columns]]
    return out

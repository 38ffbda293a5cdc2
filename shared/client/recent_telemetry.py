"""Recent telemetry as a table, from the frames that the stream still holds."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, DeliverPolicy

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.dataframe_conversion import Tabular
from accelerator_autopilot.contracts.errors import InvalidInputError
from accelerator_autopilot.contracts.frames import TelemetryFrame, decode
from accelerator_autopilot.transport.stream_reader import reading

MAX_VALUES = 50_000_000


class History(Tabular):
    """One row per device and tick: `time` (UTC), `node`, `device`, and a column per metric; NaN where none was read.

    `columns` has the same as numpy arrays.
    """

    def __init__(self, columns: dict[str, npt.NDArray[Any]]) -> None:
        self.columns = columns

    def __len__(self) -> int:
        """Return how many rows there are."""
        return len(self.columns["time"])

    def __repr__(self) -> str:
        """Return its size and metrics."""
        return f"<History of {len(self)} rows: {', '.join(self.metrics)}>"

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics."""
        return [name for name in self.columns if name not in {"time", "node", "device"}]

    def rows(self) -> list[dict[str, Any]]:
        """Return one dictionary per row, with datetimes in UTC."""
        lists = {name: values.tolist() for name, values in self.columns.items()}
        lists["time"] = [time.replace(tzinfo=UTC) for time in self.columns["time"].astype("datetime64[us]").tolist()]
        return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]


async def read_history(
    js: JetStreamContext,
    nodes: Collection[str],
    since: datetime,
    *,
    device: str | None = None,
    metrics: Collection[str] | None = None,
) -> History:
    """Read frames of these nodes since a time. Raises InvalidInputError for a result that is too large."""
    frames: list[TelemetryFrame] = []
    held = 0
    for node in nodes:
        config = ConsumerConfig(
            filter_subject=subjects.frames(node), deliver_policy=DeliverPolicy.BY_START_TIME, opt_start_time=since
        )
        async with reading(js, "TELEMETRY", config) as reader:
            async for message in reader.there():
                try:
                    frame = decode(message.data)
                except InvalidInputError:
                    continue
                if device is not None and device not in frame.devices:
                    continue
                frames.append(frame)
                held += frame.values.size
                if held > MAX_VALUES:
                    raise InvalidInputError(
                        "last", f"over {MAX_VALUES} values", "is too long: ask for a shorter time or fewer metrics"
                    )
    return History(columns_of(frames, since, device=device, metrics=metrics))


def columns_of(
    frames: list[TelemetryFrame], since: datetime, *, device: str | None = None, metrics: Collection[str] | None = None
) -> dict[str, npt.NDArray[Any]]:
    """Convert frames to columns, in the order of time, node and device."""
    known = list(dict.fromkeys(m for frame in frames for m in frame.metrics))
    wanted = known if metrics is None else list(metrics)
    if frames and (unknown := [m for m in wanted if m not in known]):
        raise InvalidInputError("metrics", unknown[0], f"is not recorded; available: {', '.join(sorted(known))}")
    times: list[npt.NDArray[np.int64]] = []
    names: list[tuple[str, str, int]] = []
    blocks: list[npt.NDArray[np.float32]] = []
    for frame in frames:
        ticks = frame.start_us + np.round(np.arange(frame.ticks) * frame.period_s * 1e6).astype(np.int64)
        places = [frame.metrics.index(m) if m in frame.metrics else -1 for m in wanted]
        padded = np.concatenate([frame.values, np.full((*frame.values.shape[:2], 1), np.nan, np.float32)], axis=2)
        for index, name in enumerate(frame.devices):
            if device is None or name == device:
                times.append(ticks)
                names.append((frame.node, name, frame.ticks))
                blocks.append(padded[:, index, places])
    time = np.concatenate(times) if times else np.empty(0, np.int64)
    node = np.array([n for n, _, ticks in names for _ in range(ticks)], dtype=object)
    owner = np.array([d for _, d, ticks in names for _ in range(ticks)], dtype=object)
    values = np.concatenate(blocks) if blocks else np.empty((0, len(wanted)), np.float32)
    kept = np.flatnonzero(time >= int(since.timestamp() * 1e6))
    order = kept[np.lexsort((owner[kept].astype(str), node[kept].astype(str), time[kept]))]
    found: dict[str, npt.NDArray[Any]] = {"time": time[order].astype("datetime64[us]")}
    found |= {"node": node[order], "device": owner[order]}
    return found | {name: values[order, i] for i, name in enumerate(wanted)}


def start_of(last: timedelta | float, now: datetime) -> datetime:
    """Return the time this long ago. Raises InvalidInputError when it is not in the past."""
    ago = last if isinstance(last, timedelta) else timedelta(seconds=last)
    if ago <= timedelta(0):
        raise InvalidInputError("last", str(last), "must be above 0")
    return now - ago

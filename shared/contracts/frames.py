"""Telemetry frames: one node's samples of one or more ticks as MessagePack with a float32 block."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeGuard

import msgpack
import numpy as np
import numpy.typing as npt

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.errors import InvalidInputError, MalformedMessageError
from accelerator_autopilot.contracts.frame_packing import AGENT, SCHEMA_VERSION, pack_frame
from accelerator_autopilot.contracts.projects import DEFAULT_PROJECT, is_project

MAX_VALUES = 4_000_000
MAX_ROWS = 100_000  # ticks of all devices in one frame
_INFINITE, _MINUS_INFINITE = bytes.fromhex("0000807f"), bytes.fromhex("000080ff")
MAX_NAME_BYTES = subjects.MOST_NAME_BYTES
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_KNOWN_NAMES = 200_000
_KNOWN_NAMES: dict[tuple[str, ...], tuple[str, ...]] = {}
LATEST_US = 253_370_764_800_000_000  # the year 9999, the last one that datetime and PostgreSQL share


@dataclass(frozen=True, slots=True)
class TelemetryFrame:
    """Samples of shape [ticks, devices, metrics]; NaN means that a value could not be read.

    `start_us` is the first tick's time in µs since 1970 UTC; `sequence` numbers the frames of one run of an agent,
    identified by `epoch_us`, so that gaps can be detected.
    """

    node: str
    start_us: int
    period_s: float
    devices: tuple[str, ...]
    metrics: tuple[str, ...]
    values: npt.NDArray[np.float32]
    sequence: int = 0
    epoch_us: int = 0
    simulated: frozenset[str] = field(default_factory=frozenset)
    schema_version: int = SCHEMA_VERSION
    project: str = DEFAULT_PROJECT
    actor: str = AGENT

    @property
    def newer(self) -> bool:
        """Whether a newer agent than this code sent it; known fields are still read."""
        return self.schema_version > SCHEMA_VERSION

    @property
    def end_us(self) -> int:
        """Time of the last tick in µs since 1970 UTC."""
        ticks = len(self.values)
        return self.start_us if ticks == 1 else self.start_us + round((ticks - 1) * self.period_s * 1e6)

    @property
    def ticks(self) -> int:
        """Number of ticks."""
        return int(self.values.shape[0])

    def tick_time(self, tick: int) -> datetime:
        """Return when a tick was sampled."""
        return _EPOCH + timedelta(microseconds=self.start_us + round(tick * self.period_s * 1e6))

    def latest(self) -> dict[str, dict[str, float]]:
        """Return the last tick as {device: {metric: value}}, without missing values."""
        block = self.values[-1]
        return {
            device: {m: float(v) for m, v in zip(self.metrics, row, strict=True) if not np.isnan(v)}
            for device, row in zip(self.devices, block, strict=True)
        }


def encode(frame: TelemetryFrame) -> bytes:
    """Encode a frame as MessagePack. Raises InvalidInputError when the block's shape does not fit its names."""
    expected = (frame.ticks, len(frame.devices), len(frame.metrics))
    if frame.values.shape != expected:
        raise InvalidInputError("values", frame.values.shape, f"shape must be {expected}")
    return pack_frame(
        node=frame.node,
        start_us=frame.start_us,
        period_s=frame.period_s,
        devices=frame.devices,
        metrics=frame.metrics,
        ticks=frame.ticks,
        block=frame.values.astype("<f4", copy=False).tobytes(),
        sequence=frame.sequence,
        epoch_us=frame.epoch_us,
        simulated=frame.simulated,
        schema_version=frame.schema_version,
        project=frame.project,
        actor=frame.actor,
    )


def decode(data: bytes, subject: str | None = None) -> TelemetryFrame:
    """Decode a frame from MessagePack; unknown keys of newer versions are ignored.

    With the `subject` that it was published under, its node must be the subject's. Raises MalformedMessageError.
    """
    try:
        body = msgpack.unpackb(data)
    except Exception as error:  # msgpack raises a dozen types for invalid bytes
        raise MalformedMessageError("frame", len(data), f"is not valid MessagePack: {type(error).__name__}") from error
    if not isinstance(body, dict):
        raise MalformedMessageError("frame", type(body).__name__, "must be a map")
    devices, metrics = _names(body, "devices"), _names(body, "metrics")
    ticks = _integer(body, "ticks", 1, MAX_ROWS)
    if ticks * len(devices) > MAX_ROWS:
        raise MalformedMessageError("ticks", ticks, f"times {len(devices)} devices are more than {MAX_ROWS} rows")
    raw = body.get("values")
    expected = ticks * len(devices) * len(metrics)
    if not isinstance(raw, bytes) or expected > MAX_VALUES or len(raw) != expected * 4:
        size = len(raw) if isinstance(raw, bytes) else type(raw).__name__
        raise MalformedMessageError("values", size, f"must be {expected} float32 (at most {MAX_VALUES})")
    node, period = body.get("node"), body.get("period_s")
    if not _is_name(node):
        raise MalformedMessageError("node", node, f"must be 1 to {MAX_NAME_BYTES} bytes")
    if subject is not None and subject != subjects.frames(node):
        raise MalformedMessageError("node", node, f"must match its subject {subject}")
    if not isinstance(period, int | float) or not 0.001 <= period <= 86_400:
        raise MalformedMessageError("period_s", period, "must be 0.001 to 86400")
    simulated = body.get("simulated", [])
    project, actor = body.get("project", DEFAULT_PROJECT), body.get("actor", AGENT)
    if not isinstance(project, str) or not is_project(project):
        raise MalformedMessageError("project", project, "must be a DNS label")
    if not _is_name(actor):
        raise MalformedMessageError("actor", actor, f"must be 1 to {MAX_NAME_BYTES} bytes")
    return TelemetryFrame(
        node=node,
        start_us=_integer(body, "start_us", 0, LATEST_US),
        period_s=float(period),
        devices=devices,
        metrics=metrics,
        values=finite_values(raw, (ticks, len(devices), len(metrics))),
        sequence=_integer(body, "seq", 0, 2**62),
        epoch_us=_integer(body, "epoch_us", 0, 2**62),
        simulated=frozenset(s for s in simulated if isinstance(s, str)) if isinstance(simulated, list) else frozenset(),
        schema_version=_integer(body, "v", 0, 2**31),
        project=project,
        actor=actor,
    )


def finite_values(raw: bytes, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Replace infinite values, which are not readings: one would make every sum and mean infinite."""
    values = np.frombuffer(raw, dtype="<f4").reshape(shape)
    # Checking the bytes first costs a twentieth of checking every value of every frame.
    if _INFINITE in raw or _MINUS_INFINITE in raw:
        return np.where(np.isinf(values), np.float32(np.nan), values)
    return values


def _is_name(text: object) -> TypeGuard[str]:
    if not isinstance(text, str) or not text or len(text) > MAX_NAME_BYTES or "\0" in text:
        return False
    return len(text) <= MAX_NAME_BYTES // 4 or len(text.encode()) <= MAX_NAME_BYTES


def _names(body: dict[str, Any], key: str) -> tuple[str, ...]:
    names = body.get(key)
    if isinstance(names, list):
        # A node sends the same names with every frame: looking them up costs a tenth of validating them.
        with suppress(TypeError):
            known = _KNOWN_NAMES.get(tuple(names))
            if known is not None:
                return known
    if not isinstance(names, list) or not names or not all(_is_name(n) for n in names):
        raise MalformedMessageError(
            key, type(names).__name__, f"must be a list of names of 1 to {MAX_NAME_BYTES} bytes"
        )
    if len(set(names)) != len(names):
        raise MalformedMessageError(key, len(names), "must not contain duplicates")
    if len(_KNOWN_NAMES) >= _MAX_KNOWN_NAMES:
        _KNOWN_NAMES.clear()
    checked = tuple(names)
    _KNOWN_NAMES[checked] = checked
    return checked


def _integer(body: dict[str, Any], key: str, low: int, high: int) -> int:
    value = body.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise MalformedMessageError(key, value, f"must be a whole number from {low} to {high}")
    return value

"""Recorded frames played back in a loop: a file of MessagePack frames, each after its 4-byte length."""

from __future__ import annotations

import struct
from pathlib import Path

from accelerator_autopilot.contracts.errors import InvalidInputError
from accelerator_autopilot.contracts.frames import TelemetryFrame, decode, encode
from accelerator_autopilot.contracts.messages.telemetry import DeviceInfo
from accelerator_autopilot.telemetry.samples import Sample, SourceEvent

_LENGTH = struct.Struct("<I")


class ReplaySource:
    """Each call of sample() returns the next recorded tick."""

    name = "replay"

    def __init__(self, path: Path) -> None:
        self._ticks = [(frame, tick) for frame in load(path) for tick in range(frame.ticks)]
        if not self._ticks:
            raise InvalidInputError("replay_file", str(path), "contains no frames")
        self._position = 0

    def discover(self) -> list[DeviceInfo]:
        """Return the devices of all recorded frames."""
        names = sorted({device for frame, _ in self._ticks for device in frame.devices})
        return [
            DeviceInfo(device=name, index=i, model="recorded", source="replay", simulated=True)
            for i, name in enumerate(names)
        ]

    def sample(self) -> dict[str, Sample]:
        """Return the next tick."""
        frame, tick = self._ticks[self._position]
        self._position = (self._position + 1) % len(self._ticks)
        return {
            device: {m: float(v) for m, v in zip(frame.metrics, frame.values[tick, d], strict=True) if v == v}  # noqa: PLR0124  NaN
            for d, device in enumerate(frame.devices)
        }

    def poll_events(self) -> list[SourceEvent]:
        """Return no events; recordings contain only samples."""
        return []

    def close(self) -> None:
        """Do nothing: no resources are held."""


def load(path: Path) -> list[TelemetryFrame]:
    """Read a recording. Raises InvalidInputError for a truncated or invalid file."""
    data = path.read_bytes()
    frames, position = [], 0
    while position < len(data):
        body = data[position + 4 : position + 4 + _LENGTH.unpack_from(data.ljust(position + 4, b"\0"), position)[0]]
        frames.append(decode(body))
        position += 4 + len(body)
    return frames


def save(path: Path, frames: list[TelemetryFrame]) -> None:
    """Write a recording."""
    path.write_bytes(b"".join(_LENGTH.pack(len(body)) + body for body in map(encode, frames)))

"""Decode frames whose names are known: find the values in the bytes, and compare the bytes around them.

A node sends the same names with every frame, and comparing bytes costs far less than unpacking them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from accelerator_autopilot.contracts.frames import LATEST_US, TelemetryFrame, decode, finite_values

# The key and the type of a 64-bit number in MessagePack.
_START, _VALUES, _SEQUENCE = b"\xa8start_us\xcf", b"\xa6values", b"\xa3seq"
# The number of bytes after the first one of an integer.
_WIDTHS = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}
MAX_KNOWN = 50_000
MAX_NUMBER = 2**62
TIME_BYTES = 8  # of the time

# The number of bytes of a block's length, by the byte before them.
_LENGTHS = {0xC4: 1, 0xC5: 2, 0xC6: 4}


@dataclass(frozen=True, slots=True)
class FrameLayout:
    """The node of a frame, where its last tick is, and the bytes that must be around it."""

    node: str
    devices: tuple[str, ...]
    metrics: tuple[str, ...]
    length: int  # -1: a layout that no agent of this product uses; no frame matches it
    head: bytes  # up to the time
    middle: bytes  # from the time to the values
    values_end: int
    tick_bytes: int

    @classmethod
    def of(cls, data: bytes, frame: TelemetryFrame) -> FrameLayout:
        """Create the layout of a decoded frame."""
        block = frame.values.nbytes
        time_at = data.find(_START) + len(_START)
        kind_at = data.find(_VALUES, time_at) + len(_VALUES)
        width = _LENGTHS.get(data[kind_at], 0) if time_at >= len(_START) and kind_at > time_at else 0
        values_at = kind_at + 1 + width
        known = width > 0 and int.from_bytes(data[kind_at + 1 : values_at], "big") == block
        return cls(
            node=frame.node,
            devices=frame.devices,
            metrics=frame.metrics,
            length=len(data) if known else -1,
            head=data[:time_at],
            middle=data[time_at + TIME_BYTES : values_at],
            values_end=values_at + block,
            tick_bytes=block // frame.ticks,
        )


@dataclass(slots=True)
class _Known:
    """A known frame: the bytes around its time, values and number, and their meaning."""

    layout: FrameLayout
    frame: TelemetryFrame
    start_at: int
    values_at: int
    number_at: int
    end: bytes  # everything after the number

    @classmethod
    def of(cls, data: bytes, frame: TelemetryFrame) -> _Known | None:
        layout = FrameLayout.of(data, frame)
        number_at = layout.values_end + len(_SEQUENCE)
        if layout.length < 0 or data[layout.values_end : number_at] != _SEQUENCE:
            return None
        _, after = _number(data, number_at)
        start_at = len(layout.head)
        return cls(layout, frame, start_at, start_at + TIME_BYTES + len(layout.middle), number_at, data[after:])

    def read(self, data: bytes) -> TelemetryFrame | None:
        """Decode the frame; None where anything but its time, values and number differs."""
        layout, known = self.layout, self.frame
        start, values_at, values_end = self.start_at + TIME_BYTES, self.values_at, layout.values_end
        if not data.startswith(layout.head) or data[start:values_at] != layout.middle:
            return None
        if data[values_end : self.number_at] != _SEQUENCE:
            return None
        number, after = _number(data, self.number_at)
        if not 0 <= number <= MAX_NUMBER or data[after:] != self.end:
            return None
        start_us = int.from_bytes(data[self.start_at : start], "big")
        if start_us > LATEST_US:
            return None
        return TelemetryFrame(
            known.node, start_us, known.period_s, known.devices, known.metrics,
            finite_values(data[values_at:values_end], known.values.shape),
            number, known.epoch_us, known.simulated, known.schema_version,
            known.project, known.actor,
        )  # fmt: skip


@dataclass
class FrameDecoder:
    """Decodes frames of many nodes, each of which repeats the same names."""

    _known: dict[str, _Known] = field(default_factory=dict)

    def decode(self, data: bytes, subject: str) -> TelemetryFrame:
        """Decode like `accelerator_autopilot.contracts.frames.decode`. Raises MalformedMessageError."""
        known = self._known.get(subject)
        frame = known.read(data) if known is not None else None
        if frame is None:
            frame = decode(data, subject)
            fresh = _Known.of(data, frame)
            if fresh is not None:
                if len(self._known) >= MAX_KNOWN:
                    self._known.clear()
                self._known[subject] = fresh
        return frame


def _number(data: bytes, at: int) -> tuple[int, int]:
    """Return a MessagePack integer of at least 0 and its end; -1 for anything else."""
    first = data[at] if at < len(data) else 0xC0
    if first < 0x80:
        return first, at + 1
    width = _WIDTHS.get(first, 0)
    end = at + 1 + width
    return (int.from_bytes(data[at + 1 : end], "big"), end) if width and end <= len(data) else (-1, at)

"""The values of a frame without unpacking it, where everything but its time and values is as in one seen before.

A node sends the same names with every frame. To compare the bytes around the values costs a twentieth of reading them.
"""

from __future__ import annotations

from dataclasses import dataclass

from shared.frames import TelemetryFrame

# The key and the type of a 64-bit number, as MessagePack writes them.
_START, _VALUES = b"\xa8start_us\xcf", b"\xa6values"


# How many bytes tell the length of a block, by the byte before them.
_LENGTHS = {0xC4: 1, 0xC5: 2, 0xC6: 4}


@dataclass(frozen=True, slots=True)
class FrameLayout:
    """Whose frame it is, where its last tick lies, and what must stand around it."""

    node: str
    devices: tuple[str, ...]
    metrics: tuple[str, ...]
    length: int  # -1: laid out as no agent of this product does; no frame is like it
    head: bytes  # up to the time
    middle: bytes  # from the time to the values
    values_end: int
    tick_bytes: int

    @classmethod
    def of(cls, data: bytes, frame: TelemetryFrame) -> FrameLayout:
        """Of a frame that was decoded."""
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
            middle=data[time_at + 8 : values_at],
            values_end=values_at + block,
            tick_bytes=block // frame.ticks,
        )

    def last_tick(self, data: bytes) -> bytes | None:
        """float32 of the last tick, [devices, metrics]; None where the frame is laid out in another way."""
        if len(data) != self.length or not data.startswith(self.head):
            return None
        values_at = len(self.head) + 8 + len(self.middle)
        if data[len(self.head) + 8 : values_at] != self.middle:
            return None
        return data[self.values_end - self.tick_bytes : self.values_end]

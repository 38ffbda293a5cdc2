"""Which frames the stream confirmed, and which of them the database has to hold. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field


@dataclass
class FrameLedger:
    """Frames by node and time of their tick, with the number of their devices."""

    devices: dict[tuple[str, int], int] = field(default_factory=dict)
    seen_at: dict[tuple[str, int], float] = field(default_factory=dict)
    last_seen: dict[str, float] = field(default_factory=dict)
    _sequences: dict[tuple[str, int], set[int]] = field(default_factory=dict)

    def frame(self, node: str, epoch_us: int, sequence: int, start_us: int, devices: int, now: float) -> None:
        """A frame of the stream."""
        self.devices[node, start_us] = devices
        self.seen_at.setdefault((node, start_us), now)
        self.last_seen[node] = now
        self._sequences.setdefault((node, epoch_us), set()).add(sequence)

    def gaps(self) -> Iterator[str]:
        """Numbers missing within a run of an agent: a frame that it made and never published."""
        for (node, epoch_us), numbers in self._sequences.items():
            missing = sorted(set(range(min(numbers), max(numbers) + 1)) - numbers)
            if missing:
                yield f"node {node}, run {epoch_us}: {len(missing)} frames never came, the first is {missing[0]}"

    def missing(self, rows: Mapping[tuple[str, int], int], before: float = float("inf")) -> Iterator[str]:
        """Frames seen before a time whose rows (device count by node and tick) are not as many as their devices."""
        for key, devices in self.devices.items():
            if self.seen_at[key] < before and rows.get(key, 0) != devices:
                yield f"frame of node {key[0]} at {key[1]} µs: {devices} devices, {rows.get(key, 0)} rows"

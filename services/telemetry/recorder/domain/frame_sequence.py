"""Frame numbers per agent run, to detect frames that no recorder saw. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from accelerator_autopilot.contracts.frames import TelemetryFrame


@dataclass
class Run:
    """What one recorder saw of one run: first and last numbers of spans in any order, and when the last frame ended."""

    spans: list[tuple[int, int]]
    last_us: int


@dataclass
class FrameSequence:
    """Numbers to be merged with those of the other recorders: each sees only its share of the frames."""

    _runs: dict[tuple[str, int], Run] = field(default_factory=dict)

    def add(self, frames: Iterable[TelemetryFrame]) -> None:
        """Record frames; repeats change nothing."""
        for frame in frames:
            self.note(frame.node, frame.epoch_us, frame.sequence, frame.end_us)

    def note(self, node: str, epoch_us: int, number: int, last_us: int) -> None:
        """Record one frame by its number alone."""
        run = self._runs.get((node, epoch_us))
        if run is None:
            self._runs[node, epoch_us] = Run([(number, number)], last_us)
            return
        first, last = run.spans[-1]
        if number == last + 1:
            run.spans[-1] = first, number
        elif not first <= number <= last:
            run.spans.append((number, number))
        run.last_us = max(run.last_us, last_us)

    def drain(self) -> dict[tuple[str, int], Run]:
        """Remove and return what was recorded, by (node, start of the run in µs)."""
        runs, self._runs = self._runs, {}
        return runs

    def give_back(self, runs: dict[tuple[str, int], Run]) -> None:
        """Return what could not be stored, or may not have been: duplicates are harmless."""
        for key, run in runs.items():
            newer = self._runs.get(key)
            if newer is None:
                self._runs[key] = run
            else:
                self._runs[key] = Run(run.spans + newer.spans, max(run.last_us, newer.last_us))


def parse_message_id(message_id: str) -> tuple[str, int, int]:
    """Parse a frame's message id into node, start of the run in µs and number. Raises ValueError."""
    node, epoch_us, number = message_id.rsplit(":", 2)
    return node, int(epoch_us), int(number)


@dataclass
class Totals:
    """What was done since the last report."""

    samples: int = 0
    duplicates: int = 0
    errors: int = 0
    oldest_s: float = 0.0

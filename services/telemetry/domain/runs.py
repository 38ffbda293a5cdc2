"""Frames counted per run of an agent, so that a number that no recorder ever saw can be told. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from shared.frames import TelemetryFrame


@dataclass
class Run:
    """What one recorder saw of one run of an agent: how many frames, and between which numbers."""

    frames: int
    lowest: int
    highest: int
    last_us: int


@dataclass
class RunTally:
    """Counts to be added to those of the other recorders: one alone sees but its share of the frames."""

    _runs: dict[tuple[str, int], Run] = field(default_factory=dict)

    def add(self, frames: Iterable[TelemetryFrame]) -> None:
        """Count frames."""
        runs = self._runs
        for frame in frames:
            run = runs.get((frame.node, frame.epoch_us))
            number = frame.sequence
            if run is None:
                runs[frame.node, frame.epoch_us] = Run(1, number, number, frame.end_us)
                continue
            run.frames += 1
            if number > run.highest:
                run.highest, run.last_us = number, frame.end_us
            elif number < run.lowest:
                run.lowest = number

    def drain(self) -> dict[tuple[str, int], Run]:
        """Take the counts by (node, start of the run in µs)."""
        runs, self._runs = self._runs, {}
        return runs

    def give_back(self, runs: dict[tuple[str, int], Run]) -> None:
        """Put drained counts back that could not be stored."""
        for key, run in runs.items():
            newer = self._runs.get(key)
            if newer is None:
                self._runs[key] = run
            else:
                self._runs[key] = Run(
                    run.frames + newer.frames,
                    min(run.lowest, newer.lowest),
                    max(run.highest, newer.highest),
                    max(run.last_us, newer.last_us),
                )


@dataclass
class Totals:
    """What was done since this was last looked at."""

    samples: int = 0
    duplicates: int = 0
    errors: int = 0
    oldest_s: float = 0.0

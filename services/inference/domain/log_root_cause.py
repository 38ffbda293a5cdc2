"""Find bursts, and a likely root cause with its chain of evidence, from lines and their templates. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from accelerator_autopilot.inference.domain.log_lines import badness, pattern_of

MIN_BURST = 5
BURST_FACTOR = 5.0
# How many lines before the first error a rare line may be its cause.
LOOKBACK_LINES = 200
CHAIN = 12


@dataclass(frozen=True)
class Line:
    """One line of a log."""

    number: int
    text: str
    template: int
    at: datetime | None = None
    source: str = ""


@dataclass(frozen=True)
class Burst:
    """A template that occurred far more often than usual within a minute, or within a hundredth of the lines."""

    template: int
    first: int
    last: int
    count: int
    usual: float


@dataclass(frozen=True)
class Cause:
    """The line that most likely started the failure, why, and what followed."""

    line: Line
    reason: str
    confidence: float
    chain: list[Line]


def bursts(lines: Sequence[Line]) -> list[Burst]:
    """Return the bursts of all templates, in order of the lines."""
    if not lines:
        return []
    timed = sum(line.at is not None for line in lines) > len(lines) / 2
    width = max(20, len(lines) // 100)
    slots: dict[int, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    latest = next((line.at for line in lines if line.at), None)
    for index, line in enumerate(lines):
        latest = line.at or latest
        slot = int(latest.timestamp() // 60) if timed and latest else index // width
        slots[line.template][slot].append(line.number)
    every = len({slot for of in slots.values() for slot in of})
    found = []
    for template, of in slots.items():
        total = sum(len(numbers) for numbers in of.values())
        for numbers in of.values():
            usual = (total - len(numbers)) / max(1, every - 1)
            if every > 2 and len(numbers) >= MIN_BURST and len(numbers) > BURST_FACTOR * (usual + 1):
                found.append(Burst(template, numbers[0], numbers[-1], len(numbers), round(usual, 2)))
    return sorted(found, key=lambda burst: burst.first)


def first_error(lines: Sequence[Line]) -> Line | None:
    """Return the first line that reports an error."""
    return next((line for line in lines if badness(line.text) >= 2), None)


def root_cause(lines: Sequence[Line], counts: Mapping[int, int], new: set[int]) -> Cause | None:
    """Return the deepest known cause that came first, else the error with nothing wrong before it.

    Hardware and resources rank before the software that depends on them; within a rank the earliest wins.
    """
    bad = [line for line in lines if badness(line.text) >= 2]
    if not bad:
        return None
    known = [(line, p) for line in bad if (p := pattern_of(line.text))]
    if known:
        line, pattern = min(known, key=lambda pair: (-pair[1].depth, pair[0].number))
        followers = [b for b in bad if b.number > line.number]
        confidence = 0.9 if pattern.depth >= 4 and followers else 0.7
        return Cause(line, pattern.meaning, confidence, _chain(line, followers))
    first = bad[0]
    before = [x for x in lines if max(0, first.number - LOOKBACK_LINES) <= x.number < first.number]
    rare = [x for x in before if badness(x.text) == 1 and (x.template in new or counts[x.template] <= 2)]
    if rare:
        return Cause(rare[0], "a rare warning shortly before the first error", 0.5, _chain(rare[0], bad))
    often = Counter(b.template for b in bad).most_common(1)[0][1]
    reason = "the first error" if often < MIN_BURST else "the first of many like errors"
    return Cause(first, reason, 0.4, _chain(first, bad[1:]))


def _chain(cause: Line, followers: Sequence[Line]) -> list[Line]:
    chain, seen = [cause], {cause.template}
    for line in followers:
        if line.template not in seen:
            chain.append(line)
            seen.add(line.template)
    return chain[:CHAIN]

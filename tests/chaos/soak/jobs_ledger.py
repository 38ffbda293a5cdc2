"""What was confirmed of jobs and what became of each, counted apart from the product. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

# What cannot be read is no job: it has a dead letter alone.
End = Literal["succeeded", "dead", "unreadable"]


@dataclass
class JobLedger:
    """A job that was confirmed ends once: with one result, and with one dead letter if it could not succeed."""

    expected: dict[str, End] = field(default_factory=dict)
    confirmed_at: dict[str, float] = field(default_factory=dict)
    results: dict[str, tuple[int, str]] = field(default_factory=dict)
    dead: dict[str, tuple[int, str]] = field(default_factory=dict)
    _over: set[str] = field(default_factory=set)
    second: list[str] = field(default_factory=list)

    def confirm(self, job_id: str, end: End, now: float) -> None:
        """The stream has it."""
        self.expected[job_id] = end
        self.confirmed_at[job_id] = now

    def result(self, sequence: int, job_id: str, status: str) -> None:
        """A message of the stream of results; the same sequence again is the same message."""
        known = self.results.setdefault(job_id, (sequence, status))
        self._over.add(job_id)
        if known[0] != sequence:
            self.second.append(f"job {job_id} has a second result: {known} and {(sequence, status)}")

    def letter(self, sequence: int, job_id: str, reason: str) -> None:
        """A dead letter."""
        known = self.dead.setdefault(job_id, (sequence, reason))
        self._over.add(job_id)
        if known[0] != sequence:
            self.second.append(f"job {job_id} has a second dead letter: {known} and {(sequence, reason)}")

    @property
    def open(self) -> int:
        """About how many have neither result nor dead letter, without a look at each."""
        return len(self.expected) - len(self._over)

    def unfinished(self, before: float = float("inf")) -> list[str]:
        """Jobs confirmed before a time that have not ended."""
        return [job for job, at in self.confirmed_at.items() if at < before and not self._ended(job)]

    def _ended(self, job_id: str) -> bool:
        found = self.results.get(job_id)
        if self.expected[job_id] == "unreadable":
            return job_id in self.dead
        return found is not None and (found[1] == "succeeded" or job_id in self.dead)

    def contradictions(self) -> Iterator[str]:
        """What must not be, whenever it is looked at."""
        yield from self.second
        for job, (sequence, reason) in self.dead.items():
            status = self.results.get(job, (0, ""))[1]
            if not reason:
                yield f"job {job} has a dead letter without a reason (DEAD {sequence})"
            if status == "succeeded":
                yield f"job {job} succeeded and has a dead letter: {reason} (DEAD {sequence})"
            if self.expected.get(job) == "succeeded":
                yield f"job {job} could have succeeded and has a dead letter: {reason} (DEAD {sequence})"
        for job, end in self.expected.items():
            status = self.results.get(job, (0, end))[1]
            if end != "succeeded" and status == "succeeded":
                yield f"job {job} succeeded though it could not"

    def lost(self, before: float = float("inf")) -> list[str]:
        """What has to have ended by now and has not."""
        return [
            f"job {job} ({self.expected[job]}): result {self.results.get(job)}, dead letter {self.dead.get(job)}"
            for job in self.unfinished(before)
        ]

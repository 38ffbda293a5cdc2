"""Track which jobs wait for which. Pure."""

from __future__ import annotations

from typing import Generic, TypeVar

M = TypeVar("M")


class DependencyIndex(Generic[M]):
    """Indexes each waiting job under the next job that it waits for."""

    def __init__(self) -> None:
        self._of: dict[str, tuple[str, M]] = {}
        self._for: dict[str, set[str]] = {}

    def put(self, job_id: str, other: str, message: M) -> None:
        """Add a job that waits for another; a newer message of it replaces the older."""
        self.forget(job_id)
        self._of[job_id] = (other, message)
        self._for.setdefault(other, set()).add(job_id)

    def forget(self, job_id: str) -> None:
        """Remove a job that no longer waits."""
        known = self._of.pop(job_id, None)
        if known is None:
            return
        others = self._for.get(known[0], set())
        others.discard(job_id)
        if not others:
            self._for.pop(known[0], None)

    def pop_dependents(self, finished: str) -> list[M]:
        """Remove and return the messages of the jobs that waited for one that has ended."""
        waiting = sorted(self._for.get(finished, ()))
        messages = [self._of[job_id][1] for job_id in waiting]
        for job_id in waiting:
            self.forget(job_id)
        return messages

    def __len__(self) -> int:
        return len(self._of)

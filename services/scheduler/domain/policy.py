"""The contract of a scaling policy; a learned one implements the same."""

from __future__ import annotations

from typing import Protocol

from services.scheduler.domain.observation import PoolObservation, Proposal


class Policy(Protocol):
    """Proposes replicas and power for a pool. It may keep state; what may be done is the governor's word."""

    name: str

    def propose(self, seen: PoolObservation) -> Proposal:
        """Look at a pool and say what it needs."""

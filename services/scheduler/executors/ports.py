"""The interface for scaling pools that an orchestrator runs."""

from __future__ import annotations

from typing import Protocol

from accelerator_autopilot.contracts.errors import AutopilotError


class ExecutorError(AutopilotError):
    """The orchestrator refused, or did not respond."""


class PoolExecutor(Protocol):
    """An orchestrator that maintains the replicas of a pool."""

    async def replicas(self, pool: str) -> int:
        """Return the desired number of replicas. Raises ExecutorError."""

    async def scale(self, pool: str, replicas: int) -> int:
        """Set the desired number of replicas; returns what was read back. Raises ExecutorError."""

    async def close(self) -> None:
        """Close connections."""

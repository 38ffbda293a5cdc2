"""What carries a pool's size out where pools are not processes of one node."""

from __future__ import annotations

from typing import Protocol

from accelerator_autopilot.contracts.errors import AutopilotError


class ExecutorError(AutopilotError):
    """The orchestrator refused, or did not answer."""


class PoolExecutor(Protocol):
    """An orchestrator that keeps so many replicas of a pool."""

    async def replicas(self, pool: str) -> int:
        """How many are wanted now. Raises HandsError."""

    async def scale(self, pool: str, replicas: int) -> int:
        """Want so many; what was read back. Raises HandsError."""

    async def close(self) -> None:
        """Let go of connections."""

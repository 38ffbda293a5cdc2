"""static: every replica, full power; what an operator without a scaler does."""

from __future__ import annotations

from accelerator_autopilot.scheduler.domain.pool_arrays import Action, PoolFacts, PoolObservations


class Static:
    """Never changes anything."""

    name = "static"

    def reset(self, facts: PoolFacts) -> None:
        """These pools from now on."""
        self._facts = facts

    def decide(self, seen: PoolObservations) -> Action:  # noqa: ARG002
        """All of it."""
        return Action.at_once(self._facts.max_replicas, self._facts.cap_w[:, -1])


def make() -> Static:
    """Build it."""
    return Static()

"""static: every replica at full power, as an operator without autoscaling runs a pool."""

from __future__ import annotations

from accelerator_autopilot.scheduler.domain.pool_arrays import Action, PoolFacts, PoolObservations


class Static:
    """Never changes anything."""

    name = "static"

    def reset(self, facts: PoolFacts) -> None:
        """Start over with these pools."""
        self._facts = facts

    def decide(self, seen: PoolObservations) -> Action:  # noqa: ARG002
        """Return all replicas."""
        return Action.at_once(self._facts.max_replicas, self._facts.cap_w[:, -1])


def make() -> Static:
    """Create the policy."""
    return Static()

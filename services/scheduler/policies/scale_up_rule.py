"""How a pool reacts where a model loads slower than a job may wait: it starts more than is missing. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from accelerator_autopilot.scheduler.domain.pool_arrays import Doubles, PoolFacts
from accelerator_autopilot.scheduler.policies.startup_readiness import starts_for_one

SLACK_USED = 0.42  # share of the slack within which queued work should be done; tuned with the rule's other parameters


@dataclass(frozen=True)
class ScaleUpRule:
    """[P] each."""

    grow: Doubles  # arriving work is assumed to continue at this multiple of its rate
    drain: Doubles  # weight of the queued work
    spare: Doubles  # 0: start what is missing; 1: start so many that it is ready by the next observation

    def wanted(
        self, facts: PoolFacts, held: Doubles, ready: Doubles, waiting_s: Doubles, rate: Doubles, prompt: Doubles
    ) -> Doubles:
        """Return replicas [..., P] for what is held and ready, and for work queued (s) and arriving (s per s)."""
        soon_s = facts.interval_s + SLACK_USED * facts.slack_s
        needed = (self.drain * waiting_s + self.grow * facts.interval_s * rate) / soon_s
        wanted = np.maximum(held, needed)
        missing = wanted - ready
        asked: Doubles = np.where(missing > 0, ready + starts_for_one(prompt, self.spare) * missing, wanted)
        return asked

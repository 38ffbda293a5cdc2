"""How a pool answers work where a model loads slower than a job may wait: it starts more than is missing. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from accelerator_autopilot.scheduler.domain.pool_arrays import Doubles, PoolFacts
from accelerator_autopilot.scheduler.policies.startup_latency import starts_for_one

SLACK_USED = 0.42  # share of the slack within which waiting work is to be done; found with the rule's other numbers


@dataclass(frozen=True)
class ScaleUpRule:
    """[P] each."""

    grow: Doubles  # arriving work is taken to go on at so many times its rate
    drain: Doubles  # weight of the work that waits
    spare: Doubles  # 0: start what is missing; 1: so many that it is ready by the next look

    def wanted(
        self, facts: PoolFacts, held: Doubles, ready: Doubles, waiting_s: Doubles, rate: Doubles, prompt: Doubles
    ) -> Doubles:
        """Replicas [..., P] for what is held and ready, seconds of work that wait, and that arrive in a second."""
        soon_s = facts.interval_s + SLACK_USED * facts.slack_s
        needed = (self.drain * waiting_s + self.grow * facts.interval_s * rate) / soon_s
        wanted = np.maximum(held, needed)
        missing = wanted - ready
        asked: Doubles = np.where(missing > 0, ready + starts_for_one(prompt, self.spare) * missing, wanted)
        return asked

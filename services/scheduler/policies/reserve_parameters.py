"""Parameters of the tuned heuristic: one set for slack longer than the load time, one for shorter slack.

They were found by evolution on random pools of the twin (`scheduler.training.tune`). The lateness controller adjusts
the reserve and the reaction.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np

from accelerator_autopilot.scheduler.domain.pool_arrays import Doubles, PoolFacts
from accelerator_autopilot.scheduler.policies.action_mapping import OUTPUTS, patience_s, reaction, shortness, slowness
from accelerator_autopilot.scheduler.policies.demand import DemandHistory
from accelerator_autopilot.scheduler.policies.whatif_sizing import WhatIfParameters, WhatIfSizing

PAST = ("margin", "doubt", "doubt_s", "late_goal", "memory_s")
# Weights of the lateness controller: on the reserve while it is above zero and below, and on the reaction.
LATENESS_WEIGHTS = ("caution", "ease", "alarm")
NAMES = (*OUTPUTS, *LATENESS_WEIGHTS, *PAST)


@dataclass(frozen=True)
class ReserveParameters:
    """[2, len(NAMES)] for slack much longer than the load time and much shorter; or [P, 2, n], one set per pool."""

    values: Doubles

    def of(self, facts: PoolFacts) -> Doubles:
        """Return [P, len(NAMES)] the parameters of each pool; they are interpolated smoothly between the two sets."""
        short = shortness(facts)[:, None]
        both = self.values if self.values.ndim == 3 else np.repeat(self.values[None], len(facts), axis=0)
        mixed: Doubles = both[:, 0] * (1.0 - short) + both[:, 1] * short
        return mixed


@cache
def shipped_numbers() -> ReserveParameters:
    """Return the packaged parameters."""
    text = (resources.files("accelerator_autopilot.scheduler") / "data" / "reserve.json").read_text(encoding="utf-8")
    numbers = json.loads(text)["numbers"]
    return ReserveParameters(np.array([[float(numbers[name][i]) for name in NAMES] for i in range(2)]))


def gains(numbers: Doubles, caution: Doubles) -> Doubles:
    """Return [P, len(OUTPUTS)] the gains; the lateness controller adjusts the reserve and the reaction."""
    moved = numbers[:, : len(OUTPUTS)].copy()
    above, below, alarm = (numbers[:, NAMES.index(name)] for name in LATENESS_WEIGHTS)
    moved[:, OUTPUTS.index("hold")] += np.where(caution > 0, above, below) * caution
    for name in ("react", "drain"):
        moved[:, OUTPUTS.index(name)] += alarm * caution
    return moved


def history(facts: PoolFacts, numbers: Doubles) -> DemandHistory:
    """Create the demand history that a policy with these parameters [P, len(NAMES)] needs."""
    past = WhatIfParameters(*(numbers[:, NAMES.index(name)] for name in PAST))
    patience = patience_s(facts, numbers[:, OUTPUTS.index("patience")])
    slow = slowness(facts, numbers[:, OUTPUTS.index("power")])
    return DemandHistory(facts, WhatIfSizing(facts, past, reaction(numbers), patience, slow))

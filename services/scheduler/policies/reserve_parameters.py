"""The tuned heuristic's numbers: one set for pools whose models load well within the slack, one for those whose do not.

They were found by evolution on random pools of the twin (`scheduler.training.tune`). Caution moves what is held and
how hard to react.
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
# Weights of caution: on what is held while it is above zero and below, and on how hard to react.
CAUTION = ("caution", "ease", "alarm")
NAMES = (*OUTPUTS, *CAUTION, *PAST)


@dataclass(frozen=True)
class ReserveParameters:
    """[2, len(NAMES)] for slack much longer than the load time and much shorter; or [P, 2, n], one set a pool."""

    values: Doubles

    def of(self, facts: PoolFacts) -> Doubles:
        """[P, len(NAMES)] each number for each pool; between the two it goes smoothly from one to the other."""
        short = shortness(facts)[:, None]
        both = self.values if self.values.ndim == 3 else np.repeat(self.values[None], len(facts), axis=0)
        mixed: Doubles = both[:, 0] * (1.0 - short) + both[:, 1] * short
        return mixed


@cache
def shipped_numbers() -> ReserveParameters:
    """The numbers that the product comes with."""
    text = (resources.files("accelerator_autopilot.scheduler") / "data" / "reserve.json").read_text(encoding="utf-8")
    numbers = json.loads(text)["numbers"]
    return ReserveParameters(np.array([[float(numbers[name][i]) for name in NAMES] for i in range(2)]))


def gains(numbers: Doubles, caution: Doubles) -> Doubles:
    """[P, len(OUTPUTS)] as `gains.proposed` takes them: caution moves what is held and how hard to react."""
    moved = numbers[:, : len(OUTPUTS)].copy()
    above, below, alarm = (numbers[:, NAMES.index(name)] for name in CAUTION)
    moved[:, OUTPUTS.index("hold")] += np.where(caution > 0, above, below) * caution
    for name in ("react", "drain"):
        moved[:, OUTPUTS.index(name)] += alarm * caution
    return moved


def history(facts: PoolFacts, numbers: Doubles) -> DemandHistory:
    """What a policy with these numbers [P, len(NAMES)] remembers of each pool."""
    past = WhatIfParameters(*(numbers[:, NAMES.index(name)] for name in PAST))
    patience = patience_s(facts, numbers[:, OUTPUTS.index("patience")])
    slow = slowness(facts, numbers[:, OUTPUTS.index("power")])
    return DemandHistory(facts, WhatIfSizing(facts, past, reaction(numbers), patience, slow))

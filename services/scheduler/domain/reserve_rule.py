"""The tuned heuristic: hold a share of recent peaks, let jobs wait inside their slack, spend watts when late.

Its gains were found by evolution on random pools of the twin (`services.scheduler.training.tune`), once for
pools whose models load well within the slack and once for those whose do not; between them it goes smoothly
from one to the other. Caution moves what is held.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np

from services.scheduler.domain.gains import OUTPUTS
from services.scheduler.domain.pool import Doubles, PoolFacts

NAMES = (*OUTPUTS, "caution")


@dataclass(frozen=True)
class ReserveNumbers:
    """[2, len(NAMES)] for slack much longer than the load time and much shorter; or [P, 2, n], one set a pool."""

    values: Doubles

    def of(self, facts: PoolFacts) -> Doubles:
        """[P, len(NAMES)] each number for each pool."""
        short = shortness(facts)[:, None]
        both = self.values if self.values.ndim == 3 else np.repeat(self.values[None], len(facts), axis=0)
        mixed: Doubles = both[:, 0] * (1.0 - short) + both[:, 1] * short
        return mixed


def shortness(facts: PoolFacts) -> Doubles:
    """[P] 0 where the slack is much longer than the load time, 1 where it is much shorter."""
    short: Doubles = 1.0 / (1.0 + (facts.slack_s / facts.load_time_s) ** 8)
    return short


@cache
def shipped_numbers() -> ReserveNumbers:
    """The numbers that the product comes with."""
    text = (resources.files("services.scheduler") / "data" / "reserve.json").read_text(encoding="utf-8")
    numbers = json.loads(text)["numbers"]
    return ReserveNumbers(np.array([[float(numbers[name][i]) for name in NAMES] for i in range(2)]))


def gains(numbers: Doubles, caution: Doubles) -> Doubles:
    """[P, len(OUTPUTS)] as `gains.proposed` takes them: caution moves what is held and how hard to react."""
    moved = numbers[:, : len(OUTPUTS)].copy()
    moved[:, :3] += (numbers[:, -1] * caution)[:, None]
    return moved

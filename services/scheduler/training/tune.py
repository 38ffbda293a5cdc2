"""Find the numbers of the reserve rule: `python -m services.scheduler.training.tune`.

Covariance matrix adaptation (Hansen 2016) on random pools of the twin: least energy, with a penalty where
more than the allowed share of jobs is late.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from functools import partial
from pathlib import Path

import numpy as np
from cmaes import CMA

from services.scheduler.domain.policies.reserve import Reserve
from services.scheduler.domain.pool import Doubles
from services.scheduler.domain.reserve_rule import NAMES, ReserveNumbers
from services.scheduler.twin.play import play
from services.scheduler.twin.workloads import random_pools

log = logging.getLogger(__name__)

POOLS, LIBRARY, LENGTH_S, CANDIDATES = 32, 500, 5400.0, 16
ALLOWED_LATE, LATE_WEIGHT, MOST_PENALTY = 0.008, 25.0, 2.0
LOWEST = np.array([-2.5, -2.5, -2.5, -1.0, -3.0, -0.5, -3.0, 0.0])
HIGHEST = np.array([1.0, 1.5, 3.0, 1.0, 2.0, 1.5, 2.0, 1.5])
START = np.array([-0.6, -0.5, 1.0, 0.0, 0.0, 0.2, -0.5, 0.7])


def main(arguments: list[str] | None = None) -> None:
    """Tune and write."""
    ask = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    ask.add_argument("--generations", type=int, default=60)
    ask.add_argument("--seed", type=int, default=0)
    ask.add_argument("--out", type=Path, default=Path("reserve.json"))
    a = ask.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    numbers = tune(a.generations, a.seed)
    told = {name: [round(float(v), 4) for v in numbers[:, i]] for i, name in enumerate(NAMES)}
    card = {"found_by": "python -m services.scheduler.training.tune", "generations": a.generations, "seed": a.seed}
    a.out.write_text(json.dumps(card | {"numbers": told}, indent=1) + "\n", encoding="utf-8")


def tune(generations: int, seed: int) -> Doubles:
    """[2, len(NAMES)] the best numbers found."""
    random = np.random.default_rng(seed)
    models, traces = random_pools(random, LIBRARY, LENGTH_S)
    low, span = np.tile(LOWEST, 2), np.tile(HIGHEST - LOWEST, 2)
    start = (np.tile(START, 2) - low) / span
    search = CMA(
        mean=start, sigma=0.15, bounds=np.tile([0.0, 1.0], (len(low), 1)), population_size=CANDIDATES, seed=seed
    )
    best = start
    for generation in range(generations):
        chosen = random.choice(len(models), POOLS, replace=False)
        asked = [search.ask() for _ in range(CANDIDATES)]
        values = np.repeat(np.stack([(low + x * span).reshape(2, -1) for x in asked]), POOLS, axis=0)
        played = play(
            partial(Reserve, ReserveNumbers(values)),
            [models[i] for i in chosen] * CANDIDATES,
            [traces[i] for i in chosen] * CANDIDATES,
            generation,
        )
        late = np.maximum(0.0, 1.0 - played.in_time - ALLOWED_LATE)
        cost = np.log(played.ratio_to_bound) + np.minimum(LATE_WEIGHT * late, MOST_PENALTY)
        costs = cost.reshape(CANDIDATES, POOLS).mean(axis=1)
        search.tell(list(zip(asked, costs.tolist(), strict=True)))
        best = np.clip(search.mean, 0.0, 1.0)
        if generation % 10 == 0:
            log.info("generation %d: cost %.4f", generation, float(costs.min()))
    numbers: Doubles = (low + best * span).reshape(2, -1)
    return numbers


if __name__ == "__main__":
    main()

"""Find the parameters of the reserve rule: `python -m accelerator_autopilot.scheduler.training.tune`.

Covariance matrix adaptation (Hansen 2016) on random pools of the twin: minimise energy, with a penalty where more than
the allowed share of jobs is late. It runs once on pools whose models load well within the slack, and once on pools
whose do not.
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

from accelerator_autopilot.scheduler.domain.pool_arrays import Doubles
from accelerator_autopilot.scheduler.policies.builtin.reserve import Reserve
from accelerator_autopilot.scheduler.policies.reserve_parameters import NAMES, ReserveParameters, shipped_numbers
from accelerator_autopilot.scheduler.twin.rollout import play
from accelerator_autopilot.scheduler.twin.simulation import PoolModel, Trace
from accelerator_autopilot.scheduler.twin.workloads import random_pools

log = logging.getLogger(__name__)

POOLS, STOCK, LENGTH_S, CANDIDATES = 40, 240, 3600.0, 12
REGIMES = ("long-slack", "short-slack")
STEADY = 0.25  # share of the pools whose work arrives without bursts
LONG, SHORT = 0.85, 1.2  # load time over slack, maximum and minimum
ALLOWED_LATE, LATE_WEIGHT, MAX_PENALTY = 0.008, 25.0, 1.0
SPACE = {  # minimum, maximum, and where the search starts for long slack and for short
    "hold": (-2.5, 1.2, -0.6, 0.0),
    "react": (-2.5, 1.5, -1.0, 0.6),
    "drain": (-2.0, 3.0, 0.7, 0.0),
    "power": (-1.0, 1.0, 0.0, 0.15),
    "patience": (-3.0, 3.0, -1.0, 1.3),
    "spare": (-0.5, 1.5, 0.1, 0.7),
    "base": (-3.0, 2.3, -2.0, 1.6),
    "company": (-2.0, 1.5, 0.0, 0.0),
    "caution": (0.0, 1.5, 0.6, 0.6),
    "ease": (0.0, 1.5, 0.6, 1.0),
    "alarm": (0.0, 1.5, 0.6, 0.0),
    "margin": (0.8, 2.0, 1.2, 1.2),
    "doubt": (0.0, 2.0, 1.0, 1.0),
    "doubt_s": (60.0, 3000.0, 1000.0, 1000.0),
    "late_goal": (0.002, 0.03, 0.015, 0.015),
    "memory_s": (900.0, 14400.0, 3600.0, 3600.0),
}
LOWEST, HIGHEST, *STARTS = np.array([SPACE[name] for name in NAMES]).T


def main(arguments: list[str] | None = None) -> None:
    """Tune, and write the parameters."""
    ask = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    ask.add_argument("--generations", type=int, default=40)
    ask.add_argument("--seed", type=int, default=1)
    ask.add_argument("--out", type=Path, default=Path("reserve.json"))
    ask.add_argument("--short", action="store_true", help="few pools, to see that it works")
    ask.add_argument("--only", choices=REGIMES, help="keep the shipped numbers of the others")
    a = ask.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    models, traces = random_pools(np.random.default_rng(a.seed), 16 if a.short else STOCK, LENGTH_S, STEADY)
    numbers = shipped_numbers().values.copy()
    for regime, name in enumerate(REGIMES):
        if a.only in (None, name):
            numbers[regime] = tune(models, traces, regime, a.generations, a.seed)
    rounded = {name: [round(float(v), 4) for v in numbers[:, i]] for i, name in enumerate(NAMES)}
    card = {
        "found_by": "python -m accelerator_autopilot.scheduler.training.tune",
        "generations": a.generations,
        "seed": a.seed,
    }
    a.out.write_text(json.dumps(card | {"numbers": rounded}, indent=1) + "\n", encoding="utf-8")


def tune(models: list[PoolModel], traces: list[Trace], regime: int, generations: int, seed: int) -> Doubles:
    """Return [len(NAMES)] the parameters of one regime: 0 for long slack, 1 for short."""
    ratio = np.array([np.median(m.load_s) / m.slack_s for m in models])
    chosen = np.flatnonzero(ratio > SHORT if regime else ratio < LONG)[:POOLS]
    span = HIGHEST - LOWEST
    search = CMA(
        mean=(STARTS[regime] - LOWEST) / span,
        sigma=0.1,
        bounds=np.tile([0.0, 1.0], (len(NAMES), 1)),
        population_size=CANDIDATES,
        seed=seed,
    )
    for generation in range(generations):
        asked = [search.ask() for _ in range(CANDIDATES)]
        both = [np.tile(LOWEST + x * span, (2, 1)) for x in asked]
        played = play(
            partial(Reserve, ReserveParameters(np.repeat(np.stack(both), len(chosen), axis=0))),
            [models[i] for i in chosen] * CANDIDATES,
            [traces[i] for i in chosen] * CANDIDATES,
            generation,
        )
        late = np.maximum(0.0, 1.0 - played.in_time - ALLOWED_LATE)
        cost = np.log(played.ratio_to_bound) + np.minimum(LATE_WEIGHT * late, MAX_PENALTY)
        costs = cost.reshape(CANDIDATES, len(chosen)).mean(axis=1)
        search.tell(list(zip(asked, costs.tolist(), strict=True)))
        if generation % 4 == 0:
            log.info("%s, generation %d: cost %.4f", REGIMES[regime], generation, float(costs.mean()))
    numbers: Doubles = LOWEST + np.clip(search.mean, 0.0, 1.0) * span
    return numbers


if __name__ == "__main__":
    main()

"""How fast the twin is: decisions a second on one core, with a policy's features and without.

    python -m tests.benchmarks.twin [--short]

The value is the environment as training sees it: the simulation, what is remembered of each pool, the features.
Beside it the simulation alone. Its error against a running product is what `tests.benchmarks.live` tells.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np

from accelerator_autopilot.scheduler.domain.pool_arrays import Action
from accelerator_autopilot.scheduler.policies.action_mapping import OUTPUTS
from accelerator_autopilot.scheduler.twin.environment import TwinEnv
from accelerator_autopilot.scheduler.twin.simulation import Twin
from accelerator_autopilot.scheduler.twin.workloads import random_pools


def main() -> None:
    ask = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    ask.add_argument("--short", action="store_true")
    a = ask.parse_args()
    pools, decisions = (32, 60) if a.short else (256, 360)
    models, traces = random_pools(np.random.default_rng(1), pools, 4000.0)
    env = TwinEnv(lambda _random, _count: (models, traces), pools, decisions, seed=1)
    env.reset()
    nothing = np.zeros((pools, len(OUTPUTS)), np.float32)
    began = time.perf_counter()
    for _ in range(decisions):
        env.step(nothing)
    with_features = pools * decisions / (time.perf_counter() - began)
    twin = Twin(models, traces, 1)
    action = Action.at_once(twin.pools["size"] // 2, twin.pools["cap_w"].copy())
    began = time.perf_counter()
    for _ in range(decisions):
        twin.act(action)
    alone = pools * decisions / (time.perf_counter() - began)
    print(
        json.dumps(
            {
                "name": "twin", "value": round(with_features), "unit": "decisions/s", "baseline": round(alone),
                "ratio": round(with_features / alone, 3), "pools": pools,
            }
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()

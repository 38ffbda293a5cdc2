"""The product's policies as one pool's policy: told a pool at `reset`, shown numbers at `decide`.

    python -m tests.benchmarks.arena [--short]

plays every policy on random pools of the twin that no training has seen, a quarter of them without bursts.
`Learned` and `Champion` are for any simulator that hands dictionaries to a policy.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np

from accelerator_autopilot.scheduler.domain.pool_arrays import PoolFacts, PoolObservations
from accelerator_autopilot.scheduler.policies.builtin import policy_maker, policy_names
from accelerator_autopilot.scheduler.policies.contract import PoolPolicy
from accelerator_autopilot.scheduler.settings import SchedulerSettings
from accelerator_autopilot.scheduler.twin.rollout import play
from accelerator_autopilot.scheduler.twin.workloads import random_pools

UNSEEN_SEED = 77_000_001
STEADY = 0.25  # share of the pools whose work comes without bursts


class _OnePool:
    """A policy for many pools, asked about one."""

    name = ""

    def reset(self, pool: dict[str, Any]) -> None:
        self.policy: PoolPolicy = policy_maker(self.name)()
        self.policy.reset(
            PoolFacts(
                max_replicas=np.array([pool["max_replicas"]], np.int64),
                interval_s=np.array([pool["interval_s"]], float),
                load_time_s=np.array([pool["load_time_s"]], float),
                slack_s=np.array([pool["slack_s"]], float),
                slots=np.ones(1, np.int64),
                idle_w=np.array([pool["idle_power_w"]], float),
                load_w=np.array([pool["load_power_w"]], float),
                cap_w=np.array([pool["caps_w"]], float),
                relative_time=np.array([pool["relative_time"]], float),
                power_w=np.array([pool["average_power_w"]], float),
            )
        )

    def decide(self, seen: dict[str, Any]) -> dict[str, Any]:
        service_s = seen["mean_service_s"]
        action = self.policy.decide(
            PoolObservations(
                time_s=np.array([seen["time_s"]], float),
                queue_depth=np.array([seen["queue_depth"]], np.int64),
                oldest_wait_s=np.array([seen["oldest_wait_s"]], float),
                arrivals=np.array([seen["arrivals"]], np.int64),
                completions=np.array([seen["completions"]], np.int64),
                mean_service_s=np.array([np.nan if service_s is None else service_s], float),
                ready=np.array([seen["ready"]], np.int64),
                busy=np.array([seen["busy"]], np.int64),
                loading=np.array([seen["loading"]], np.int64),
                power_cap_w=np.array([seen["power_cap_w"]], float),
                power_w=np.array([seen["power_w"]], float),
            )
        )
        return {"replicas": int(action.replicas[0]), "power_cap_w": float(action.power_cap_w[0])}


class Learned(_OnePool):
    """The trained network."""

    name = "learned"


class Reserve(_OnePool):
    """The tuned heuristic."""

    name = "reserve"


class Champion(_OnePool):
    """What a fleet without history begins with."""

    name = str(SchedulerSettings.model_fields["policy_name"].default)


def main() -> None:
    ask = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    ask.add_argument("--short", action="store_true")
    ask.add_argument("--pools", type=int, default=200)
    a = ask.parse_args()
    models, traces = random_pools(np.random.default_rng(UNSEEN_SEED), 24 if a.short else a.pools, 3600.0, STEADY)
    table = {}
    for name in policy_names():
        played = play(policy_maker(name), models, traces, UNSEEN_SEED)
        table[name] = {
            "ratio_to_bound": round(float(np.exp(np.log(played.ratio_to_bound).mean())), 3),
            "in_time": round(float(played.in_time.mean()), 4),
            "pools_in_time": round(float((played.in_time >= 0.99).mean()), 3),
        }
        print(f"{name:14s} {table[name]}")
    value, baseline = table["learned"]["ratio_to_bound"], table["static"]["ratio_to_bound"]
    print(
        json.dumps(
            {
                "name": "arena", "value": value, "unit": "energy over the bound", "baseline": baseline,
                "ratio": round(value / baseline, 3), "pools": len(models), "policies": table,
            }
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()

"""Train the network that corrects the tuned rule: `python -m accelerator_autopilot.scheduler.training.train`.

Proximal policy optimisation (Schulman et al. 2017) of Stable-Baselines3 on random pools of the twin. Every round
derives its pools and random numbers from the seed and its own number, so a run is reproducible on one machine, and an
interrupted run resumes identically.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.logger import configure

from accelerator_autopilot.contracts.messages.commands import FleetPolicy
from accelerator_autopilot.scheduler.adapters.database_history import read_past
from accelerator_autopilot.scheduler.application.twin_replay import PoolReplay, past_pools
from accelerator_autopilot.scheduler.policies.builtin.learned import LATE_PRICE, Learned
from accelerator_autopilot.scheduler.policies.builtin.reserve import make as make_reserve
from accelerator_autopilot.scheduler.policies.network import Checkpoint, load_checkpoint
from accelerator_autopilot.scheduler.training.vec_env import TwinVecEnv
from accelerator_autopilot.scheduler.twin.environment import TwinEnv
from accelerator_autopilot.scheduler.twin.rollout import Outcome, play
from accelerator_autopilot.scheduler.twin.simulation import PoolModel, Trace
from accelerator_autopilot.scheduler.twin.workloads import random_pools

log = logging.getLogger(__name__)

POOLS, DECISIONS, STOCK, VALIDATION = 256, 360, 2000, 96
LENGTH_S = 4500.0
STEPS = 60
RATE, FIRST_LOG_STD, HIDDEN = 6e-4, -3.0, 96
VALIDATION_SEED = 1_000_003
EVERY = 10
INTERVALS_S = (2.0, 5.0, 10.0, 10.0)


@dataclass
class ScenarioPool:
    """Pools to draw episodes from, generated once, since generating takes longer than simulating.

    All pools of a draw use the same decision interval, which differs between draws.
    """

    models: list[PoolModel]
    traces: list[Trace]
    lengths_s: list[float]

    def draw(self, random: np.random.Generator, count: int) -> tuple[list[PoolModel], list[Trace]]:
        """Draw some of them, each from a random moment on."""
        chosen = random.integers(len(self.models), size=count)
        interval_s = float(random.choice(INTERVALS_S))
        spare_s = [max(0.0, self.lengths_s[i] - DECISIONS * interval_s) for i in chosen]
        traces = [self.traces[i].since(random.uniform(0, s)) for i, s in zip(chosen, spare_s, strict=True)]
        return [replace(self.models[i], interval_s=interval_s) for i in chosen], traces


def main(arguments: list[str] | None = None) -> None:
    """Train, validate, export."""
    ask = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    ask.add_argument("--rounds", type=int, default=200, help=f"of {POOLS * DECISIONS} decisions each")
    ask.add_argument("--seed", type=int, default=0)
    ask.add_argument("--out", type=Path, default=Path("policy"), help="folder for checkpoint, card, curves and state")
    ask.add_argument("--resume", action="store_true", help="go on from the state in --out")
    ask.add_argument("--short", action="store_true", help="few pools and rounds, to see that it works")
    ask.add_argument("--stop-after", type=int, help="rounds; --resume goes on from there to --rounds")
    ask.add_argument("--database", help="also learn from this fleet's own jobs")
    ask.add_argument("--days", type=float, default=7.0, help="days of the fleet's history")
    ask.add_argument("--start", type=Path, help="a checkpoint to begin from, for fine-tuning")
    a = ask.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    a.out.mkdir(parents=True, exist_ok=True)
    stock, validation = (24, 4) if a.short else (STOCK, VALIDATION)
    rounds = min(a.rounds, 2) if a.short else a.rounds
    own = own_pools(a.database, a.days) if a.database else []
    start = load_checkpoint(a.start) if a.start else None
    Training(a.out, a.seed, rounds, stock, validation, own=own, start=start).run(
        resume=a.resume, stop_after=a.stop_after
    )


def own_pools(dsn: str, days: float) -> list[PoolReplay]:
    """Return the fleet's own pools of this many days. Raises AutopilotError."""
    until = datetime.now(UTC)
    past = asyncio.run(read_past(dsn, until - timedelta(days=days), until))
    return past_pools(past, FleetPolicy(), None, None)


class Training:
    """One training run."""

    def __init__(
        self,
        out: Path,
        seed: int,
        rounds: int,
        stock: int,
        validation: int,
        *,
        own: Sequence[PoolReplay] = (),
        start: Checkpoint | None = None,
    ) -> None:
        torch.set_num_threads(1)  # the network is too small to parallelise
        self.out, self.seed, self.rounds, self.start = out, seed, rounds, start
        random = np.random.default_rng([seed, 0])
        models, traces = random_pools(random, stock, LENGTH_S)
        lengths_s = [LENGTH_S] * stock
        if own:
            # As many of the fleet's own pools as random ones, so that neither is forgotten.
            again = max(1, stock // len(own))
            models += [pool.model for pool in own] * again
            traces += [pool.trace for pool in own] * again
            lengths_s += [pool.trace.length_s for pool in own] * again
        self.stock = ScenarioPool(models, traces, lengths_s)
        self.validation = random_pools(np.random.default_rng(VALIDATION_SEED), validation, LENGTH_S)
        self.env = TwinEnv(self.stock.draw, min(POOLS, stock), DECISIONS, seed)
        self.curve: list[dict[str, float]] = []
        self.took_s = 0.0

    def run(self, *, resume: bool, stop_after: int | None = None) -> None:
        """Run every round; saves the state and a checkpoint every few rounds."""
        model = self._resumed() if resume else self._fresh()
        reference = self._validate(make_reserve())
        log.info("the rule alone: %s", reference)
        last = min(self.rounds, stop_after or self.rounds)
        for number in range(len(self.curve), last):
            began = time.perf_counter()
            self._round(model, number)
            self.took_s += time.perf_counter() - began
            point: dict[str, float] = {"round": number + 1, "decisions": (number + 1) * self.env.num_envs * DECISIONS}
            if (number + 1) % EVERY == 0 or number + 1 == last:
                checkpoint = self._export(model, number + 1)
                point |= self._validate(Learned(checkpoint))
                log.info("%s", json.dumps(point))
            self.curve.append(point)
            if (number + 1) % EVERY == 0 or number + 1 == last:
                self._keep(model, reference)

    def _fresh(self) -> PPO:
        model = PPO(
            "MlpPolicy",
            TwinVecEnv(self.env),
            n_steps=STEPS,
            batch_size=STEPS * self.env.num_envs // 4,
            n_epochs=4,
            gamma=0.98,
            gae_lambda=0.95,
            learning_rate=RATE,
            # State-dependent noise that persists for a while: replicas that jump around cost starts.
            use_sde=True,
            sde_sample_freq=30,
            policy_kwargs={"net_arch": [HIDDEN, HIDDEN], "log_std_init": FIRST_LOG_STD},
            seed=self.seed,
            device="cpu",
        )
        model.set_logger(configure(None, []))
        for layer, (weight, bias) in zip(_linear(model), self.start.layers if self.start else (), strict=False):
            layer.weight.data, layer.bias.data = torch.from_numpy(weight), torch.from_numpy(bias)
        return model

    def _resumed(self) -> PPO:
        model = PPO.load(self.out / "state.zip", env=TwinVecEnv(self.env), device="cpu")
        model.set_logger(configure(None, []))
        kept = json.loads((self.out / "state.json").read_text(encoding="utf-8"))
        self.curve, self.took_s = kept["curve"], kept["took_s"]
        return model

    def _round(self, model: PPO, number: int) -> None:
        left = max(0.02, 1.0 - number / self.rounds)
        model.lr_schedule = lambda _: RATE * left
        self.env.draw_from(np.random.default_rng([self.seed, 1, number]))
        np.random.seed(number)  # noqa: NPY002  Stable-Baselines3 shuffles its batches with it
        torch.manual_seed(self.seed * 1_000_003 + number)
        model._last_obs = None  # noqa: SLF001  so that learn() begins with the pools of this round
        model.learn(self.env.num_envs * DECISIONS, reset_num_timesteps=False)

    def _validate(self, policy: Any) -> dict[str, float]:
        models, traces = self.validation
        seen: Outcome = play(lambda: policy, models, traces, VALIDATION_SEED)
        return {
            "ratio_to_bound": round(float(np.exp(np.log(seen.ratio_to_bound).mean())), 4),
            "late_share": round(float(1 - seen.in_time.mean()), 5),
            "pools_in_time": round(float((seen.in_time >= 0.99).mean()), 4),
        }

    def _export(self, model: PPO, rounds: int) -> Checkpoint:
        layers = [(m.weight.detach().numpy().copy(), m.bias.detach().numpy().copy()) for m in _linear(model)]
        card = {
            "trained_by": "python -m accelerator_autopilot.scheduler.training.train",
            "algorithm": "PPO, Stable-Baselines3",
            "seed": self.seed,
            "rounds": rounds,
            "decisions": rounds * self.env.num_envs * DECISIONS,
            "training_s": round(self.took_s),
            "pools": len(self.stock.models),
            "network": [list(w.shape) for w, _ in layers],
        }
        return Checkpoint(layers, card)

    def _keep(self, model: PPO, reference: dict[str, float]) -> None:
        model.save(self.out / "state.zip")
        kept = {"curve": self.curve, "took_s": self.took_s}
        (self.out / "state.json").write_text(json.dumps(kept), encoding="utf-8")
        checkpoint = self._export(model, len(self.curve))
        checkpoint.card["validation"] = {"rule": reference, "learned": {**self.curve[-1], "late_price": LATE_PRICE}}
        checkpoint.save(self.out / "policy.npz")
        curve = [point for point in self.curve if "ratio_to_bound" in point]
        card = json.dumps(checkpoint.card | {"curve": curve}, indent=1)
        (self.out / "policy_card.json").write_text(card + "\n", encoding="utf-8")


def _linear(model: PPO) -> list[torch.nn.Linear]:
    policy = model.policy
    modules = (*policy.mlp_extractor.policy_net, policy.action_net)
    return [m for m in modules if isinstance(m, torch.nn.Linear)]


if __name__ == "__main__":
    main()

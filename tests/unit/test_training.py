"""Training and tuning run, repeat themselves, and go on where they were broken off."""

from __future__ import annotations

import json
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from accelerator_autopilot.scheduler.policies.network import load_checkpoint
from accelerator_autopilot.scheduler.policies.reserve_parameters import NAMES
from accelerator_autopilot.scheduler.training.train import main as train
from accelerator_autopilot.scheduler.training.tune import main as tune
from accelerator_autopilot.scheduler.twin.environment import TwinEnv
from accelerator_autopilot.scheduler.twin.workloads import random_pools

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


def layers(folder: Path) -> list[np.ndarray]:
    return [part for layer in load_checkpoint(folder / "policy.npz").layers for part in layer]


def test_a_run_that_was_broken_off_ends_as_one_that_was_not(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(["--short", "--rounds", "2", "--out", str(whole)])
    train(["--short", "--rounds", "2", "--out", str(broken), "--stop-after", "1"])
    assert load_checkpoint(broken / "policy.npz").card["rounds"] == 1
    train(["--short", "--rounds", "2", "--out", str(broken), "--resume"])
    for ours, theirs in zip(layers(whole), layers(broken), strict=True):
        assert ours.tolist() == theirs.tolist()
    card = json.loads((whole / "policy_card.json").read_text())
    assert card["rounds"] == 2
    assert card["curve"][-1]["ratio_to_bound"] >= 1
    assert (whole / "policy.npz").stat().st_size < 5_000_000


def test_fine_tuning_begins_from_a_checkpoint(tmp_path: Path) -> None:
    train(["--short", "--rounds", "1", "--out", str(tmp_path / "first")])
    first = tmp_path / "first" / "policy.npz"
    train(["--short", "--rounds", "1", "--out", str(tmp_path / "again"), "--start", str(first)])
    distance = max(
        float(np.abs(a - b).max()) for a, b in zip(layers(first.parent), layers(tmp_path / "again"), strict=True)
    )
    assert 0 < distance < 0.1, "it moved, but from there"


def test_the_rules_numbers_are_found_within_their_bounds(tmp_path: Path) -> None:
    out = tmp_path / "reserve.json"
    tune(["--short", "--generations", "2", "--out", str(out)])
    numbers = json.loads(out.read_text())["numbers"]
    assert set(numbers) == set(NAMES)
    assert all(len(both) == 2 for both in numbers.values())


def test_the_environment_keeps_gymnasiums_contract() -> None:
    models, traces = random_pools(np.random.default_rng(1), 4, 900.0)
    env: gymnasium.vector.VectorEnv = TwinEnv(lambda _random, _count: (models, traces), 4, 10, seed=3)
    first, _ = env.reset(seed=5)
    assert env.observation_space.contains(first)
    env.action_space.seed(1)
    action = env.action_space.sample()
    observed, reward, ended, cut, _ = env.step(action)
    assert env.observation_space.contains(observed)
    assert (reward <= 0).all()
    assert not ended.any()
    assert not cut.any()
    again, _ = env.reset(seed=5)
    assert again.tolist() == first.tolist()
    assert env.step(action)[1].tolist() == reward.tolist()

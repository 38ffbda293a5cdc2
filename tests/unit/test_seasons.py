"""Seasonal memory of the learned detector."""

from __future__ import annotations

import numpy as np
import pytest

from accelerator_autopilot.anomaly.domain.learned.density_score import DensityScore
from accelerator_autopilot.anomaly.domain.learned.seasonal_memory import SeasonalMemory

PERIOD = 96
ONE = np.array([0])


def daily(days: int, seed: int = 0) -> np.ndarray:
    """Busy by day, idle by night, a little noise."""
    rows = np.arange(days * PERIOD)
    return np.where((rows % PERIOD) > 48, 80.0, 20.0) + np.random.default_rng(seed).normal(0, 1, len(rows))


def run(values: np.ndarray, learned: np.ndarray | None = None) -> np.ndarray:
    """How far each row is off, for a series whose mean is 50."""
    seasons = SeasonalMemory(1)
    seasons.slots.grow(1)
    off = []
    for row, value in enumerate(values):
        takes = np.array([[learned is None or bool(learned[row])]])
        x, spread = (np.array([[v]], np.float32) for v in (value, 30.0))
        off.append(seasons.step(ONE, x, spread, takes)[0].item())
    return np.array(off)


def test_a_day_that_misses_its_peak_is_off_though_no_value_is_new() -> None:
    values = daily(10)
    values[9 * PERIOD :] = 20.0
    off = np.abs(run(values))
    usual = off[3 * PERIOD : 9 * PERIOD].max()
    assert off[9 * PERIOD + 48 :].max() > usual + 1.0


def test_noise_has_no_season() -> None:
    seasons = SeasonalMemory(1)
    seasons.slots.grow(1)
    for value in np.random.default_rng(1).normal(50, 10, 600):
        x, spread = (np.array([[v]], np.float32) for v in (value, 8.0))
        seasons.step(ONE, x, spread, np.ones((1, 1), bool))
    assert seasons.slots.read(ONE)["lag"].item() == 0.0


def test_what_was_not_to_be_learnt_is_not_what_is_expected_a_season_later() -> None:
    values, learned = daily(10), np.ones(10 * PERIOD, bool)
    odd = slice(8 * PERIOD, 9 * PERIOD)
    values[odd], learned[odd] = 20.0, False
    off = np.abs(run(values, learned))
    again = np.abs(run(values))
    last_day = slice(9 * PERIOD + 60, 10 * PERIOD - 5)
    assert off[last_day].max() < 1.5
    assert again[last_day].max() > off[last_day].max()


@pytest.mark.parametrize("value", [0.0, 5.0, 1e9])
def test_a_constant_is_never_a_surprise(value: float) -> None:
    surprise = DensityScore(1)
    surprise.slots.grow(1)
    surprise.seasons.slots.grow(1)
    told = [surprise.step(ONE, np.array([[value]], np.float32), np.array([True])).item() for _ in range(400)]
    assert max(told) < 1.0
    assert np.isfinite(told).all()

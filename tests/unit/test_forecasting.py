"""Forecasts of arrivals."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accelerator_autopilot.scheduler.policies.forecasting import Forecaster


def test_it_settles_on_a_constant_and_follows_a_ramp() -> None:
    forecaster = Forecaster(2, (1, 5))
    for step in range(200):
        told = forecaster.observe(np.array([5.0, float(step)]))
    assert told.mean[0] == pytest.approx([5.0, 5.0], abs=0.05)
    assert told.mean[1] == pytest.approx([200.0, 204.0], abs=6.0)


def test_the_day_before_wins_where_days_repeat() -> None:
    day = np.concatenate([np.zeros(20), np.full(20, 30.0)])
    forecaster = Forecaster(1, (5,), season=40)
    errors = []
    series = np.tile(day, 12)
    for step, value in enumerate(series[:-5]):
        told = forecaster.observe(np.array([value]))
        if step > 240:
            errors.append(abs(told.mean[0, 0] - series[step + 5]))
    naive = np.abs(series[246:] - series[241:-5]).mean()
    assert np.mean(errors) < 0.5 * naive


def test_eight_in_ten_lie_inside_the_interval() -> None:
    random = np.random.default_rng(1)
    forecaster, inside = Forecaster(1, (1,)), []
    values = random.poisson(20.0, 600).astype(float)
    for before, after in pairwise(values):
        told = forecaster.observe(np.array([before]))
        inside.append(told.low[0, 0] <= after <= told.high[0, 0])
    assert 0.7 < np.mean(inside[100:]) < 0.9


@given(st.lists(st.lists(st.floats(0, 1e6), min_size=3, max_size=3), max_size=50))
def test_it_is_never_negative_and_always_a_number(rows: list[list[float]]) -> None:
    forecaster = Forecaster(3, (1, 4))
    for row in rows:
        told = forecaster.observe(np.array(row))
        assert (told.low >= 0).all()
        assert (told.low <= told.high).all()
        assert (told.mean >= 0).all()
        assert np.isfinite(told.high).all()

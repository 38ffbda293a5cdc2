"""Devices and nodes that fall silent, and conditions that come and go."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from accelerator_autopilot.anomaly.domain.condition_state import Conditions
from accelerator_autopilot.anomaly.domain.detection_engine import DetectionEngine
from accelerator_autopilot.anomaly.domain.findings import Finding
from accelerator_autopilot.anomaly.domain.metric_columns import matrix
from tests.support.one_device import OneDevice


class TestSilence:
    def test_a_silent_node_is_told_and_one_that_speaks_again_is_not(self) -> None:
        device = OneDevice()
        device.tick(temp_c=50)
        assert device.watch.time(device.now_s + 9) == []
        (silent,) = device.watch.time(device.now_s + 11)
        assert (silent.kind, silent.device, silent.firing) == ("agent_silent", "node", True)
        device.now_s += 12
        device.tick(temp_c=50)
        (heard,) = device.watch.time(device.now_s)
        assert not heard.firing

    def test_a_device_whose_rows_stop_while_its_node_goes_on(self) -> None:
        watch = DetectionEngine()
        told: list[Finding] = []
        for second in range(30):
            devices = ["a", "b"] if second < 10 else ["a"]
            slots = watch.slots("n1", devices)
            now = np.full(len(slots), float(second))
            values = matrix(np.full((len(slots), 1), 50.0, np.float32), ("temp_c",))
            told += watch.rows(slots, now, values, np.ones(len(slots)), now)
            told += watch.time(float(second))
        assert [(f.kind, f.device) for f in told if f.firing] == [("samples_stopped", "b")]


class TestConditions:
    def test_what_flaps_is_told_less_and_less(self) -> None:
        conditions = Conditions(0.0, 0.0)
        conditions.grow(1)
        slot, yes = np.array([0]), np.array([True])
        opened = sum(
            len(conditions.update(slot, np.array([n * 5.0]), np.array([n % 2 == 0]), yes).opened) for n in range(720)
        )
        assert opened <= 2

    @given(st.lists(st.tuples(st.booleans(), st.booleans(), st.floats(-30, 30)), max_size=60))
    def test_it_opens_and_ends_in_turn_whatever_the_clock_does(self, steps: list[tuple[bool, bool, float]]) -> None:
        conditions, now, counts = Conditions(5.0, 5.0), 0.0, False
        conditions.grow(1)
        slot = np.array([0])
        for firing, known, dt in steps:
            now += dt
            changes = conditions.update(slot, np.array([now]), np.array([firing]), np.array([known]))
            assert not (len(changes.opened) and counts)
            assert not (len(changes.ended) and not counts)
            counts = (counts or bool(len(changes.opened))) and not len(changes.ended)
            assert bool(conditions.counts(slot)[0]) == counts

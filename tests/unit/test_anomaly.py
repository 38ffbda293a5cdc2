"""Detectors and the alert book."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.anomaly.domain.alert_book import AlertBook
from services.anomaly.domain.detectors import Tuning, all_detectors
from services.anomaly.domain.detectors.agent_silent import AgentSilentDetector
from services.anomaly.domain.detectors.frozen_sensor import FrozenSensorDetector
from services.anomaly.domain.detectors.memory_errors import MemoryErrorDetector
from services.anomaly.domain.detectors.robust import RobustDetector
from services.anomaly.domain.detectors.thermal import ThermalDetector
from services.anomaly.domain.detectors.throttle import ThrottleDetector
from services.anomaly.domain.detectors.xid import XidDetector
from services.anomaly.domain.finding import Finding, Tick
from services.anomaly.handlers import Detection
from shared.messages.alerts import Alert
from tests.support.builders import alert, at, event, frame


def tick(seconds: float = 0.0, **sample: float) -> Tick:
    return Tick("n1", at(seconds), 1.0, {"gpu-0": sample})


def finding(firing: bool, **more: Any) -> Finding:
    return Finding("n1", "gpu-0", "k", firing, **more)


class TestAlertBook:
    def test_opens_after_a_while_says_it_once_and_resolves_after_a_while(self) -> None:
        book = AlertBook()
        rule = {"open_after_s": 2.0, "clear_after_s": 3.0}
        states = []
        for second, firing in enumerate([True] * 6 + [False] * 6):
            change = book.observe(finding(firing, **rule), at(second))
            states.append(change.state if change else None)
        assert states == [None, None, "opened", None, None, None, None, None, None, "resolved", None, None]

    def test_flapping_neither_opens_nor_resolves(self) -> None:
        book = AlertBook()
        changes = [book.observe(finding(s % 2 == 0, open_after_s=2.0), at(s)) for s in range(20)]
        assert changes == [None] * 20

    def test_getting_worse_is_told_at_once(self) -> None:
        book = AlertBook()
        book.observe(finding(firing=True, severity="warning"), at(0))
        worse = book.observe(finding(firing=True, severity="critical"), at(1))
        assert worse is not None
        assert (worse.state, worse.severity) == ("updated", "critical")

    def test_alerts_open_before_a_restart_still_end(self) -> None:
        book = AlertBook.restore([alert(kind="k")])
        book.observe(finding(firing=False, clear_after_s=1.0), at(10))
        ended = book.observe(finding(firing=False, clear_after_s=1.0), at(12))
        assert ended is not None
        assert (ended.id, ended.state) == ("a1", "resolved")

    @given(st.lists(st.tuples(st.booleans(), st.floats(0.1, 30)), max_size=60))
    def test_every_alert_opens_once_and_resolves_at_most_once(self, steps: list[tuple[bool, float]]) -> None:
        book, now, seen = AlertBook(), 0.0, {}
        for firing, dt in steps:
            now += dt
            change = book.observe(finding(firing, open_after_s=5.0, clear_after_s=5.0), at(now))
            if change is not None:
                seen.setdefault(change.id, []).append(change.state)
        for states in seen.values():
            assert states[0] == "opened"
            assert states.count("opened") == 1
            assert states.count("resolved") <= 1
            assert "resolved" not in states[:-1]
        assert len(book.open_alerts) <= 1


class TestXid:
    def test_hardware_is_critical_and_application_is_not(self) -> None:
        detector = XidDetector(60)
        assert detector.on_event(event("xid", code=79))[0].severity == "critical"
        assert detector.on_event(event("xid", code=31))[0].severity == "info"
        assert detector.on_event(event("xid", code=45)) == []

    def test_it_ends_when_the_device_appears_anew_or_after_the_hold(self) -> None:
        detector = XidDetector(60)
        detector.on_event(event("xid", 0, code=79))
        detector.on_event(event("xid", 0, code=94, device="gpu-1"))
        cleared = detector.on_event(event("appeared", 5))
        assert [(f.kind, f.firing) for f in cleared] == [("xid_79", False)]
        assert detector.on_time(at(59)) == []
        assert [f.device for f in detector.on_time(at(61))] == ["gpu-1"]

    def test_a_restart_does_not_leave_it_open_for_ever(self) -> None:
        detector = XidDetector(60)
        detector.restore(alert(kind="xid_79"))
        assert [f.kind for f in detector.on_time(at(61))] == ["xid_79"]


class TestRules:
    def test_thermal_compares_with_the_devices_own_limit(self) -> None:
        detector = ThermalDetector()
        assert detector.on_tick(tick(temp_c=83, temp_slowdown_c=83))[0].firing
        assert not detector.on_tick(tick(temp_c=70, temp_slowdown_c=83))[0].firing
        assert detector.on_tick(tick(temp_c=80, temp_slowdown_c=83)) == []
        assert detector.on_tick(tick(temp_c=95)) == []

    def test_our_own_cap_is_no_fault(self) -> None:
        detector = ThrottleDetector()
        assert not detector.on_tick(tick(clock_event_reasons=0x4))[0].firing
        assert detector.on_tick(tick(clock_event_reasons=0x84))[0].firing

    def test_only_new_memory_errors_fire_and_a_driver_reload_does_not(self) -> None:
        detector = MemoryErrorDetector()
        fired = [detector.on_tick(tick(ecc_dbe=n))[0].firing for n in (5, 5, 6, 0, 0, 1)]
        assert fired == [False, False, True, False, False, True]
        assert detector.on_tick(tick(row_remap_failure=1.0))[0].severity == "critical"

    def test_a_frozen_sensor_counts_only_under_load(self) -> None:
        busy, idle = FrozenSensorDetector(), FrozenSensorDetector()
        for _ in range(31):
            stuck = busy.on_tick(tick(power_w=200.0, gpu_util_pct=90.0))
            still = idle.on_tick(tick(power_w=50.0, gpu_util_pct=0.0))
        assert stuck[0].firing
        assert not still[0].firing

    def test_a_silent_node_is_told_and_one_that_speaks_again_is_not(self) -> None:
        detector = AgentSilentDetector(10)
        detector.on_tick(tick())
        assert not detector.on_time(at(0))[0].firing
        assert not detector.on_time(at(10))[0].firing
        assert detector.on_time(at(11))[0].firing
        detector.on_tick(tick())
        assert not detector.on_time(at(12))[0].firing


class TestRobust:
    def test_an_outlier_fires_and_noise_never_does(self) -> None:
        detector = RobustDetector(8.0)
        noise = np.random.default_rng(1).normal(40, 2, 2000)
        fired = [f for t in noise for f in detector.on_tick(tick(temp_c=float(t))) if f.firing]
        assert fired == []
        (hot,) = detector.on_tick(tick(temp_c=95.0))
        assert hot.firing
        assert hot.evidence[0].value == 95.0

    def test_gaps_and_constant_series_are_no_trouble(self) -> None:
        detector = RobustDetector(8.0)
        for _ in range(100):
            detector.on_tick(tick(temp_c=50.0))
            detector.on_tick(tick(power_w=1.0))
        assert not any(f.firing for f in detector.on_tick(tick(temp_c=50.0)))


@pytest.mark.parametrize("detector", all_detectors(Tuning()), ids=lambda d: d.name)
class TestEveryDetector:
    def test_it_bears_empty_and_odd_samples(self, detector: Any) -> None:
        assert detector.on_tick(Tick("n", at(0), 1.0, {})) == []
        for value in (0.0, -1.0, 1e9):
            sample = dict.fromkeys(("temp_c", "power_w", "ecc_dbe", "clock_event_reasons", "fan_pct"), value)
            for found in detector.on_tick(Tick("n", at(1), 1.0, {"d": sample | {"clock_event_reasons": 0.0}})):
                assert found.kind

    def test_its_findings_carry_evidence_and_an_action_when_they_fire(self, detector: Any) -> None:
        found = detector.on_event(event("xid", code=79)) + detector.on_event(event("lost"))
        found += detector.on_tick(tick(temp_c=99, temp_slowdown_c=83, clock_event_reasons=0x80))
        for one in found:
            if one.firing:
                assert one.evidence
                assert one.summary
                assert one.action


async def test_a_fault_goes_from_frame_to_alert() -> None:
    published: list[Alert] = []

    async def publish(change: Alert) -> None:
        published.append(change)

    now = at(0)
    detection = Detection(all_detectors(Tuning()), AlertBook(), publish, lambda: now)
    for second in range(4):
        now = at(second)
        hot = frame(metrics=("temp_c", "temp_slowdown_c"), start=now)
        hot.values[:] = [90.0, 83.0]
        await detection.on_frame(hot)
    assert [(a.kind, a.state, a.severity) for a in published] == [("thermal", "opened", "critical")]
    assert published[0].evidence[0].metric == "temp_c"

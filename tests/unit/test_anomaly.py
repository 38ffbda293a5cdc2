"""Detectors, rules and the alert book."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accelerator_autopilot.anomaly.application.message_handlers import Detection
from accelerator_autopilot.anomaly.domain.alert_lifecycle import AlertLifecycle
from accelerator_autopilot.anomaly.domain.detection_engine import DetectionEngine
from accelerator_autopilot.anomaly.domain.detectors import all_detectors, source_failed
from accelerator_autopilot.anomaly.domain.detectors.xid import XidDetector
from accelerator_autopilot.anomaly.domain.findings import Finding
from accelerator_autopilot.anomaly.domain.metric_columns import COLUMNS, matrix
from accelerator_autopilot.anomaly.domain.rules import all_rules
from accelerator_autopilot.anomaly.domain.xid_catalogue import ADVICE, CATALOGUE, look_up
from accelerator_autopilot.contracts.failure_risk import risks
from accelerator_autopilot.contracts.incident_root_cause import incidents
from accelerator_autopilot.contracts.messages.alerts import Alert
from tests.support.builders import alert, at, event, frame
from tests.support.one_device import OneDevice


def finding(firing: bool, **more: Any) -> Finding:
    return Finding("n1", "gpu-0", "k", firing, **more)


class TestSourceFailed:
    def test_a_failing_exporter_is_one_warning_about_itself(self) -> None:
        detector = source_failed.make(600.0)
        (opened,) = detector.on_event(event("source_failed", device="scrape http://h/metrics", message="answers 500"))
        assert (opened.kind, opened.severity, opened.firing) == ("source_failed", "warning", True)
        assert "answers 500" in opened.summary
        (ended,) = detector.on_event(event("source_recovered", device="scrape http://h/metrics"))
        assert not ended.firing
        assert detector.on_event(event("lost")) == []


class TestAlertBook:
    def test_opens_after_a_while_says_it_once_and_resolves_after_a_while(self) -> None:
        book = AlertLifecycle()
        rule = {"open_after_s": 2.0, "clear_after_s": 3.0}
        states = []
        for second, firing in enumerate([True] * 6 + [False] * 6):
            change = book.observe(finding(firing, **rule), at(second))
            states.append(change.state if change else None)
        assert states == [None, None, "opened", None, None, None, None, None, None, "resolved", None, None]

    def test_flapping_neither_opens_nor_resolves(self) -> None:
        book = AlertLifecycle()
        changes = [book.observe(finding(s % 2 == 0, open_after_s=2.0), at(s)) for s in range(20)]
        assert changes == [None] * 20

    def test_getting_worse_is_told_at_once(self) -> None:
        book = AlertLifecycle()
        book.observe(finding(firing=True, severity="warning"), at(0))
        worse = book.observe(finding(firing=True, severity="critical"), at(1))
        assert worse is not None
        assert (worse.state, worse.severity) == ("updated", "critical")

    def test_alerts_open_before_a_restart_still_end(self) -> None:
        book = AlertLifecycle.restore([alert(kind="k")])
        book.observe(finding(firing=False, clear_after_s=1.0), at(10))
        ended = book.observe(finding(firing=False, clear_after_s=1.0), at(12))
        assert ended is not None
        assert (ended.id, ended.state) == ("a1", "resolved")

    @given(st.lists(st.tuples(st.booleans(), st.floats(0.1, 30)), max_size=60))
    def test_every_alert_opens_once_and_resolves_at_most_once(self, steps: list[tuple[bool, float]]) -> None:
        book, now, seen = AlertLifecycle(), 0.0, {}
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


class TestIncidents:
    def opened(self, book: AlertLifecycle, node: str, device: str, kind: str, second: float) -> Alert:
        change = book.observe(Finding(node, device, kind, True), at(second))
        assert change is not None
        return change

    def test_what_one_device_shows_is_one_incident_with_its_cause_first(self) -> None:
        book = AlertLifecycle()
        kinds = ("throttle", "thermal", "fan_stopped", "unusual")
        told = [self.opened(book, "n1", "gpu-0", kind, n * 20) for n, kind in enumerate(kinds)]
        other = self.opened(book, "n2", "gpu-5", "ecc_uncorrected", 90)
        assert len({a.incident for a in told}) == 1
        assert other.incident not in {a.incident for a in told}
        first, second = incidents([*told, other])
        assert {first.root.kind, second.root.kind} == {"fan_stopped", "ecc_uncorrected"}

    def test_the_cooling_of_a_rack_is_one_incident(self) -> None:
        book = AlertLifecycle()
        told = [self.opened(book, f"n{n // 8}", f"gpu-{n % 8}", "thermal", n / 4) for n in range(64)]
        late = [a for a in told if a.node not in {"n0", "n1"}]
        assert len({a.incident for a in late}) == 1
        assert len({a.incident for a in told}) <= 2

    def test_far_apart_in_time_are_two(self) -> None:
        book = AlertLifecycle()
        first = self.opened(book, "n1", "gpu-0", "thermal", 0)
        book.observe(Finding("n1", "gpu-0", "thermal", firing=False), at(60))
        again = self.opened(book, "n1", "gpu-0", "thermal", 7200)
        assert first.incident != again.incident


class TestRisk:
    def test_what_came_often_and_lately_weighs_most_and_says_why(self) -> None:
        history = [
            alert(id=f"a{n}", device="gpu-0", kind="ecc_uncorrected", opened_at=at(-86_400 * n), at=at(0))
            for n in range(3)
        ]
        history += [alert(id="b", device="gpu-1", kind="ecc_uncorrected", opened_at=at(-86_400 * 60), at=at(0))]
        history += [alert(id="c", device="gpu-2", kind="xid_31", severity="info", opened_at=at(0), at=at(0))]
        found = risks([*history, history[0]], at(0))
        assert [r.device for r in found] == ["gpu-0", "gpu-1"]
        assert 0 < found[1].score < 0.1 < found[0].score < 1
        assert found[0].explained == "ecc_uncorrected x3 (100%)"


class TestXid:
    def test_hardware_is_critical_and_application_is_not(self) -> None:
        detector = XidDetector(60)
        assert detector.on_event(event("xid", code=79))[0].severity == "critical"
        assert detector.on_event(event("xid", code=31))[0].severity == "info"
        assert detector.on_event(event("xid", code=45)) == []

    def test_it_ends_with_a_reset_or_after_the_hold_never_because_a_device_appears(self) -> None:
        detector = XidDetector(60)
        detector.on_event(event("xid", 0, code=79))
        detector.on_event(event("xid", 0, code=94, device="gpu-1"))
        assert detector.on_event(event("appeared", 5)) == []
        assert [(f.kind, f.firing) for f in detector.release("n1", "gpu-0", at(5))] == [("xid_79", False)]
        assert detector.on_time(at(59)) == []
        assert [f.device for f in detector.on_time(at(61))] == ["gpu-1"]

    def test_a_restart_does_not_leave_it_open_for_ever(self) -> None:
        detector = XidDetector(60)
        detector.restore(alert(kind="xid_79"))
        assert [f.kind for f in detector.on_time(at(61))] == ["xid_79"]

    def test_an_application_error_on_many_devices_is_the_applications(self) -> None:
        detector = XidDetector(60)
        found = [detector.on_event(event("xid", n, code=31, device=f"gpu-{n}"))[0] for n in range(4)]
        assert found[-1].severity == "info"
        assert "the application" in found[-1].summary

    def test_the_same_on_one_device_again_and_again_is_the_devices(self) -> None:
        detector = XidDetector(60)
        burst = [detector.on_event(event("xid", n, code=31))[0].severity for n in range(5)]
        assert set(burst) == {"info"}, "a burst is one occurrence"
        later = [detector.on_event(event("xid", 3600 * n, code=31))[0] for n in range(1, 4)]
        assert later[-1].severity == "warning"
        assert "hardware" in later[-1].summary

    def test_every_code_has_an_action_that_is_advised(self) -> None:
        assert {xid.action for xid in CATALOGUE.values()} <= set(ADVICE)
        assert look_up(79).action == "reboot"
        assert look_up(9999).meaning == "not in the catalogue"


BUSY = {"gpu_util_pct": 90.0, "power_w": 300.0, "clock_sm_mhz": 1900.0, "temp_c": 60.0, "memory_used_bytes": 1e9}


class TestRules:
    def test_thermal_compares_with_the_devices_own_limit(self) -> None:
        device = OneDevice("thermal")
        assert device.ticks(5, temp_c=83, temp_slowdown_c=83) == {"thermal"}
        assert device.ticks(5, temp_c=80, temp_slowdown_c=83) == {"thermal"}
        assert device.ticks(5, temp_c=70, temp_slowdown_c=83) == set()
        assert OneDevice("thermal").ticks(5, temp_c=85) == set()
        assert OneDevice("thermal").ticks(5, temp_c=60, temp_slowdown_c=83, temp_margin_c=-1) == {"thermal"}

    def test_our_own_cap_is_no_fault_and_a_power_brake_is(self) -> None:
        device = OneDevice("throttle", "power_brake")
        assert device.ticks(10, clock_event_reasons=0x4) == set()
        assert device.ticks(10, clock_event_reasons=0x40) == {"throttle"}
        assert device.ticks(20, clock_event_reasons=0x84) == {"power_brake"}

    def test_only_new_memory_errors_fire_and_a_driver_reload_does_not(self) -> None:
        device = OneDevice("ecc_uncorrected")
        assert device.ticks(3, ecc_dbe=5) == set()
        assert device.tick(ecc_dbe=6) == {"ecc_uncorrected"}
        assert device.ticks(400, ecc_dbe=6) == set()
        assert device.ticks(3, ecc_dbe=0) == set()
        assert device.tick(ecc_dbe=1) == {"ecc_uncorrected"}

    @pytest.mark.parametrize("flag", ["row_remap_pending", "row_remap_failure", "recovery_action"])
    def test_flags_fire_while_they_are_set(self, flag: str) -> None:
        device = OneDevice(flag)
        assert device.tick(**{flag: 0.0}) == set()
        assert device.tick(**{flag: 1.0}) == {flag}
        assert device.tick(**{flag: 0.0}) == set()

    def test_corrected_errors_fire_by_their_rate(self) -> None:
        slow, fast = OneDevice("ecc_corrected", period_s=60), OneDevice("ecc_corrected", period_s=60)
        for minute in range(120):
            few = slow.tick(ecc_sbe=minute // 30)
            many = fast.tick(ecc_sbe=minute)
        assert few == set()
        assert many == {"ecc_corrected"}

    def test_a_link_that_lost_width_or_a_neighbour(self) -> None:
        device = OneDevice("pcie_link_degraded", "nvlink_down")
        assert device.ticks(100, pcie_width=16, pcie_gen=1, gpu_util_pct=0, nvlink_active=18) == set()
        assert device.ticks(100, pcie_width=8, pcie_gen=1, gpu_util_pct=0, nvlink_active=18) == {"pcie_link_degraded"}
        assert "nvlink_down" in device.ticks(10, nvlink_active=17)

    def test_low_clocks_need_a_cause(self) -> None:
        device = OneDevice("clocks_low")
        device.ticks(60, **BUSY, power_cap_w=400)
        capped = {**BUSY, "clock_sm_mhz": 900.0, "power_cap_w": 200.0, "power_w": 198.0}
        assert device.ticks(120, **capped, clock_event_reasons=0x4) == set()
        low = {**BUSY, "clock_sm_mhz": 900.0, "power_cap_w": 400.0, "power_w": 150.0}
        assert device.ticks(120, **low, clock_event_reasons=0x0) == {"clocks_low"}

    def test_power_that_does_not_fit_the_load(self) -> None:
        device = OneDevice("power_without_load", "hung_kernel")
        device.ticks(5, gpu_util_pct=0, power_w=60)
        device.ticks(5, gpu_util_pct=100, power_w=380)
        assert device.ticks(100, gpu_util_pct=0, power_w=300) == {"power_without_load"}
        assert "hung_kernel" in device.ticks(400, gpu_util_pct=100, power_w=62)

    def test_sensors_that_stand_still_lie_or_fall_silent(self) -> None:
        noise = np.random.default_rng(1)
        device = OneDevice("frozen_sensor", "impossible_value", "samples_missing")
        for _ in range(100):
            assert device.tick(**{**BUSY, "power_w": 300 + noise.normal()}) == set()
        assert device.ticks(40, **BUSY) == {"frozen_sensor"}
        assert device.tick(**{**BUSY, "power_w": 301.0}) == set()
        assert device.tick(**{**BUSY, "temp_c": -40.0}) == {"impossible_value"}
        assert "samples_missing" in device.ticks(30, gpu_util_pct=90.0)

    @pytest.mark.parametrize(("interval", "offset"), [(30, 0), (60, 0), (60, 50), (60, 5), (120, 100), (300, 0)])
    def test_an_exporter_that_renews_its_page_now_and_then_is_not_frozen(self, interval: int, offset: int) -> None:
        device, noise, power = OneDevice("frozen_sensor"), np.random.default_rng(1), 300.0
        for second in range(6 * interval):
            if (second + offset) % interval == 0:
                power = 300 + noise.normal()
            assert device.tick(**{**BUSY, "power_w": power}) == set()
        assert device.ticks(4 * interval, **BUSY) == {"frozen_sensor"}

    @pytest.mark.parametrize("name", ["temp_mem_c", "temp_c"])
    def test_a_zero_from_the_start_is_no_heat_and_one_that_comes_later_cannot_be(self, name: str) -> None:
        device = OneDevice("impossible_value")
        assert device.ticks(100, **{**BUSY, name: 0.0}) == set()
        assert device.ticks(5, **{**BUSY, name: 50.0}) == set()
        assert device.tick(**{**BUSY, name: 0.0}) == {"impossible_value"}

    def test_a_share_far_above_the_whole_is_told(self) -> None:
        device = OneDevice("impossible_value")
        assert device.ticks(5, **{**BUSY, "sm_util_pct": 117.0}) == set()
        assert device.tick(**{**BUSY, "sm_util_pct": 4200.0}) == {"impossible_value"}

    def test_what_a_source_stops_telling_without_failing_is_not_missing(self) -> None:
        device, noise = OneDevice("samples_missing"), np.random.default_rng(1)
        for _ in range(60):
            device.tick(**{**BUSY, "power_w": 300 + noise.normal(), "read_errors": 0.0})
        assert device.ticks(100, gpu_util_pct=90.0, read_errors=0.0) == set()
        assert device.ticks(100, gpu_util_pct=90.0, read_errors=2.0) == {"samples_missing"}

    def test_a_source_that_fails_says_nothing_about_its_devices(self) -> None:
        device = OneDevice()
        noise = np.random.default_rng(1)
        for _ in range(60):
            device.tick(**{**BUSY, "power_w": 300 + noise.normal()})
        assert device.ticks(600, read_errors=1.0) == set()
        device.watch.time(device.now_s)
        assert device.tick(**BUSY) == set()

    def test_a_leak_is_told_with_the_time_that_is_left(self) -> None:
        device = OneDevice("memory_leak", period_s=60)
        told: list[Finding] = []
        for minute in range(180):
            device.now_s += 60
            slots = device.watch.slots("n1", ["gpu-0"])
            sample = np.array([[40e9 + minute * 0.1e9, 80e9]], np.float32)
            one = np.array([device.now_s])
            values = matrix(sample, ("memory_used_bytes", "memory_total_bytes"))
            told += device.watch.rows(slots, one, values, np.array([60.0]), one)
        assert told[0].kind == "memory_leak"
        assert "full in 5." in told[0].summary

    @pytest.mark.parametrize("rule", all_rules(), ids=lambda rule: rule.kind.name)
    def test_every_rule_bears_gaps_and_odd_values(self, rule: Any) -> None:
        device = OneDevice(rule.kind.name)
        for value in (np.nan, 0.0, -1.0, 1e9, np.inf):
            device.ticks(3, **dict.fromkeys(COLUMNS, value))
        device.now_s -= 7200
        device.ticks(3, **BUSY)
        assert rule.kind.action
        assert rule.kind.runbook.endswith(rule.kind.name)
        assert set(rule.kind.metrics) <= set(COLUMNS)


@pytest.mark.parametrize("detector", all_detectors(), ids=lambda d: d.name)
def test_findings_of_events_carry_evidence_and_an_action_when_they_fire(detector: Any) -> None:
    for one in detector.on_event(event("xid", code=79)) + detector.on_event(event("lost")):
        assert one.evidence
        assert one.summary
        assert one.action


async def test_a_fault_goes_from_frame_to_alert() -> None:
    published: list[Alert] = []

    async def publish(change: Alert) -> None:
        published.append(change)

    now = at(0)
    detection = Detection(DetectionEngine(), all_detectors(), AlertLifecycle(), publish, lambda: now)
    for second in range(4):
        now = at(second)
        hot = frame(metrics=("temp_c", "temp_slowdown_c"), start=now)
        hot.values[:] = [90.0, 83.0]
        await detection.on_frames([hot])
    assert [(a.kind, a.state, a.severity) for a in published] == [("thermal", "opened", "critical")]
    assert published[0].evidence[0].metric == "temp_c"


async def test_what_is_in_the_shadow_is_logged_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    published: list[Alert] = []

    async def publish(change: Alert) -> None:
        published.append(change)

    detection = Detection(DetectionEngine(), all_detectors(), AlertLifecycle(), publish, lambda: at(0), ["xid_*"])
    with caplog.at_level("INFO"):
        await detection.on_event(event("xid", code=79))
        await detection.on_event(event("lost"))
    assert [a.kind for a in published] == ["device_lost"]
    assert "alert in shadow mode" in caplog.messages


async def test_frames_of_one_node_in_one_bunch_are_looked_at_in_order() -> None:
    published: list[Alert] = []

    async def publish(change: Alert) -> None:
        published.append(change)

    detection = Detection(DetectionEngine(), all_detectors(), AlertLifecycle(), publish, lambda: at(9))
    bunch = []
    for second in range(9):
        one = frame(metrics=("ecc_dbe",), start=at(second))
        one.values[:] = float(second >= 5)
        bunch.append(one)
    await detection.on_frames(bunch)
    assert [a.kind for a in published] == ["ecc_uncorrected"]

"""The short form of the soak, and whether its record sees what it has to see."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.soak.alerts_ledger import AlertLedger
from tests.chaos.soak.caps_ledger import CapLedger
from tests.chaos.soak.frames_ledger import FrameLedger
from tests.chaos.soak.jobs_ledger import JobLedger
from tests.chaos.soak.plan import DISKS, NATS_LINKS, SHORT_PLAN, STREAMS, every_fault
from tests.chaos.soak.processes import NAMES
from tests.chaos.soak.run import Scale, Soak

SHORT = Scale(
    seconds=0, rate=50, agents=1, devices_each=60, pause_s=0.5, warm_up_s=2.0, recover_within_s=45, settle_s=60,
    small_disks=False,
)  # fmt: skip


@pytest.mark.chaos
@pytest.mark.timeout(300)
async def test_every_invariant_holds_through_a_few_faults(tmp_path: Path) -> None:
    report = await Soak(tmp_path / "data", SHORT).run(SHORT_PLAN)
    print(report.table())
    print(report.json())
    assert not report.failed, "\n".join(report.lines())


def test_the_long_plan_has_every_kind_on_every_process_and_link() -> None:
    faults = {(fault.kind, fault.target) for fault in every_fault()}
    assert len(faults) >= 60
    assert all((kind, name) in faults for kind in ("kill", "stop", "freeze", "slow") for name in NAMES)
    assert all((kind, f"{name}-nats") in faults for kind in ("cut", "stall", "throttle") for name in NATS_LINKS)
    assert all(("full", name) in faults for name in (*STREAMS, *(f"disk of {disk}" for disk in DISKS)))


def test_a_lost_job_a_second_result_and_a_wrong_end_are_seen() -> None:
    ledger = JobLedger()
    for job, end in (("lost", "succeeded"), ("twice", "succeeded"), ("buried", "succeeded"), ("risen", "dead")):
        ledger.confirm(job, end, now=1.0)
    ledger.result(5, "twice", "succeeded")
    ledger.result(5, "twice", "succeeded")
    assert list(ledger.contradictions()) == []
    ledger.result(9, "twice", "succeeded")
    ledger.result(6, "buried", "failed")
    ledger.letter(1, "buried", "attempts_exhausted")
    ledger.result(7, "risen", "succeeded")
    assert ledger.open == 1
    assert ["lost" in text for text in ledger.lost()] == [True]
    assert ledger.lost(before=0.5) == []
    wrong = "\n".join(ledger.contradictions())
    assert "twice has a second result" in wrong
    assert "buried could have succeeded" in wrong
    assert "risen succeeded though" in wrong


def test_a_failed_job_needs_its_dead_letter() -> None:
    ledger = JobLedger()
    ledger.confirm("poison", "dead", now=1.0)
    ledger.result(1, "poison", "failed")
    assert ledger.unfinished() == ["poison"]
    ledger.letter(1, "poison", "permanent_error")
    assert ledger.unfinished() == []


def test_a_skipped_frame_and_a_missing_row_are_seen() -> None:
    ledger = FrameLedger()
    for sequence in (1, 2, 4):
        ledger.frame("n1", 7, sequence, sequence * 1_000_000, devices=2, now=float(sequence))
    assert ["1 frames never came, the first is 3" in text for text in ledger.gaps()] == [True]
    rows = {("n1", 1_000_000): 2, ("n1", 2_000_000): 1}
    assert len(list(ledger.missing(rows))) == 2
    assert len(list(ledger.missing(rows, before=3.0))) == 1


def capped(ledger: CapLedger, cap_w: float, start: int, end: int) -> None:
    for at in range(start, end):
        ledger.frame("n1", float(at), {"g0": cap_w})


def test_a_cap_that_outlives_its_lease_is_seen_and_a_late_command_is_not_one() -> None:
    ledger = CapLedger(margin_s=2.0)
    ledger.asked(("n1", "g0"), 150.0, asked_s=100.0, expires_s=130.0, lease_s=5.0)
    capped(ledger, 150.0, 120, 126)
    assert ledger.violations == []
    assert ledger.over() == []
    capped(ledger, 150.0, 126, 131)
    assert ["its lease ended at 125.0 s" in text for text in ledger.violations] == [True]
    ledger.frame("n1", 131.0, {})
    assert ledger.over() == []


def test_a_cap_that_nobody_asked_for_is_seen_and_a_frozen_agent_is_given_time() -> None:
    ledger = CapLedger(margin_s=2.0)
    capped(ledger, 180.0, 10, 14)
    assert ["nobody asked" in text for text in ledger.violations] == [True]
    frozen = CapLedger(margin_s=2.0)
    frozen.asked(("n1", "g0"), 150.0, asked_s=100.0, expires_s=130.0, lease_s=5.0)
    capped(frozen, 150.0, 101, 107)
    capped(frozen, 150.0, 140, 142)
    frozen.frame("n1", 142.0, {})
    assert frozen.violations == []


def test_an_event_without_an_alert_and_an_alert_without_a_webhook_are_seen() -> None:
    ledger = AlertLedger(told={"pager": set(), "chat": set()})
    ledger.event("n1", "g0", "xid_79", now=1.0)
    assert ["never became an alert" in text for text in ledger.silent()] == [True]
    ledger.alert("a1", "n1", "g0", "xid_79", now=2.0)
    ledger.delivered("pager", "a1", now=3.0)
    assert ["receiver chat was never told" in text for text in ledger.silent()] == [True]
    assert list(ledger.silent(before=1.5)) == []
    ledger.delivered("chat", "a1", now=5.0)
    assert list(ledger.silent()) == []
    assert ledger.delays_s == [1.0, 3.0]

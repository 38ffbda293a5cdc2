"""What a ledger holds is bounded, fits the store, and ends also where nobody says that an alert is over."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from accelerator_autopilot.contracts.errors import UnavailableError
from accelerator_autopilot.contracts.messages.alerts import Alert, Evidence
from accelerator_autopilot.notifier.adapters.ledger_store import NatsLedgerStore
from accelerator_autopilot.notifier.application import subscription_worker
from accelerator_autopilot.notifier.application.alert_consumer import stream_filters
from accelerator_autopilot.notifier.application.missed_resolutions import (
    EARLY,
    MISSING_AFTER_RECREATION_S,
    MISSING_S,
    MissedResolutions,
    OpenAlerts,
)
from accelerator_autopilot.notifier.application.subscription_worker import SubscriptionWorker
from accelerator_autopilot.notifier.domain import subscription_ledger as ledger_module
from accelerator_autopilot.notifier.domain.subscription_ledger import (
    NEVER_PUBLISHED,
    LedgerEntry,
    Notice,
    SubscriptionLedger,
)
from tests.support.builders import T0, alert, at, subscription

EVERY = ["opened", "updated", "resolved"]


def test_updates_that_wait_for_hours_are_one() -> None:
    """One notice a minute through a night was an entry that the broker does not take, and then nothing was told."""
    ledger = SubscriptionLedger(subscription(states=EVERY))
    ledger.take(alert(severity="warning"), 1)
    for minute in range(2, 1000):
        worse = minute == 500
        ledger.take(alert(severity="warning", state="updated", at=at(minute), escalated=worse), minute)
    waiting = ledger.entries["a1"].waiting
    assert [n.alert.state for n in waiting] == ["opened", "updated"]
    assert (waiting[1].sequence, waiting[1].alert.escalated) == (999, True)
    ledger.take(alert(severity="warning", state="resolved", at=at(1001)), 1001)
    assert [n.alert.state for n in ledger.entries["a1"].waiting] == [*EVERY]


def test_what_is_just_told_is_not_changed_under_way() -> None:
    ledger = SubscriptionLedger(subscription(states=EVERY))
    for sequence in (1, 2, 3):
        ledger.take(alert(state="updated", at=at(sequence)), sequence)
    assert [n.sequence for n in ledger.entries["a1"].waiting] == [1, 3]


async def test_an_entry_that_the_broker_would_not_take_is_kept_with_less_evidence() -> None:
    sent: list[bytes] = []

    async def publish(_: str, body: bytes) -> None:
        sent.append(body)

    evidence = [Evidence(metric="m", value=1.0, expected="\U0001f4a5" * 4000, at=T0)] * 50
    big = alert(evidence=evidence)
    entry = LedgerEntry(alert=big, waiting=[Notice(alert=big, sequence=1)])
    await NatsLedgerStore(SimpleNamespace(publish=publish)).put("s1", entry)  # type: ignore[arg-type]
    assert len(sent[0]) < 2**20
    assert len(LedgerEntry.model_validate_json(sent[0]).waiting) == 1


def test_incidents_of_a_day_do_not_crowd_out_what_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "MAX_REMEMBERED", 10)
    ledger = SubscriptionLedger(subscription(by_incident=True))
    for number in range(30):
        ledger.take(alert(id=f"a{number:02}"), 2 * number + 1)
        ledger.delivered(f"a{number:02}")
        ledger.take(alert(id=f"a{number:02}", state="resolved", at=at(number)), 2 * number + 2)
        ledger.delivered(f"a{number:02}")
    assert ledger.pending_count == 0
    assert ledger.sweep(at(60)) == {f"a{number:02}" for number in range(20)}
    assert len(ledger.entries) == 10


@pytest.mark.parametrize(
    ("severities", "filters"),
    [
        ([], []),
        (["info"], []),
        (["warning"], ["alerts.critical.*.*", "alerts.warning.*.*"]),
        (["critical"], ["alerts.critical.*.*"]),
    ],
)
def test_the_server_sends_what_may_have_grown_past_the_filter(severities: list[str], filters: list[str]) -> None:
    assert stream_filters(subscription(severities=severities)) == filters


class TestLostEnds:
    def ledger(self) -> SubscriptionLedger:
        ledger = SubscriptionLedger(subscription())
        ledger.take(alert(), 7)
        ledger.delivered("a1")
        return ledger

    def test_what_is_missing_for_long_is_over_and_told(self) -> None:
        ledger, lost = self.ledger(), MissedResolutions()
        assert lost.check(ledger, OpenAlerts(at_s=0.0)) == []
        assert lost.check(ledger, OpenAlerts(at_s=1.0)) == []
        assert lost.check(ledger, OpenAlerts(at_s=MISSING_S)) == []
        assert lost.check(ledger, OpenAlerts(at_s=1.0 + MISSING_S)) == ["a1"]
        ledger.end("a1", at(900))
        (notice,) = ledger.entries["a1"].waiting
        assert (notice.alert.state, notice.alert.end_reason) == ("resolved", NEVER_PUBLISHED)
        ledger.delivered("a1")
        assert ledger.sweep(at(901)) == {"a1"}

    def test_what_came_back_was_not_missing(self) -> None:
        ledger, lost = self.ledger(), MissedResolutions()
        lost.check(ledger, OpenAlerts(at_s=1.0))
        lost.check(ledger, OpenAlerts(frozenset({"a1"}), at_s=MISSING_S))
        assert lost.check(ledger, OpenAlerts(at_s=2 * MISSING_S)) == []

    def test_a_bucket_that_was_made_since_says_nothing_for_a_day(self) -> None:
        ledger, lost = self.ledger(), MissedResolutions()
        made = T0 + timedelta(hours=1)
        assert made > EARLY
        lost.check(ledger, OpenAlerts(kept_since=made, at_s=1.0))
        assert lost.check(ledger, OpenAlerts(kept_since=made, at_s=2 * MISSING_S)) == []
        assert lost.check(ledger, OpenAlerts(kept_since=made, at_s=1.0 + MISSING_AFTER_RECREATION_S)) == ["a1"]


class TestEscalation:
    """What the bucket of open alerts does not have, or does not tell, may be as open as before."""

    async def held(self, monkeypatch: pytest.MonkeyPatch, needs: Any, now_s: float = 100.0) -> bool:
        monkeypatch.setattr(subscription_worker, "utc_now", lambda: at(3600))
        around = SimpleNamespace(silences={}, needs_somebody=needs)
        deliveries = SubscriptionWorker(subscription(escalate_after_s=60), around)  # type: ignore[arg-type]
        deliveries._ledger.take(alert(), 1)
        assert await deliveries._holds("a1", 50.0)
        return await deliveries._holds("a1", now_s)

    async def test_it_waits_a_little_and_then_people_are_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def unknown(_: Alert) -> bool:
            raise UnavailableError("not among the open ones")

        assert await self.held(monkeypatch, unknown, 60.0)
        assert not await self.held(monkeypatch, unknown, 81.0)

    async def test_whom_an_acknowledgement_names_is_enough(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def taken(_: Alert) -> bool:
            await asyncio.sleep(0)
            return False

        around = SimpleNamespace(silences={}, needs_somebody=taken)
        monkeypatch.setattr(subscription_worker, "utc_now", lambda: at(3600))
        deliveries = SubscriptionWorker(subscription(escalate_after_s=60), around)  # type: ignore[arg-type]
        deliveries._ledger.take(alert(), 1)
        assert await deliveries._holds("a1", 50.0)
        assert deliveries._ledger.entries["a1"].waiting == []

"""What a subscription's ledger takes, tells, forgets, and in which order."""

from __future__ import annotations

from datetime import timedelta

import pytest

from accelerator_autopilot.notifier.domain import subscription_ledger
from accelerator_autopilot.notifier.domain.subscription_ledger import (
    LedgerEntry,
    Notice,
    StreamPosition,
    SubscriptionLedger,
)
from tests.support.builders import alert, at, subscription

EVERY = ["opened", "updated", "resolved"]


class TestEntry:
    def test_its_rank_is_the_worst_of_what_is_told_and_what_waits(self) -> None:
        notices = {s: Notice(alert=alert(severity=s), sequence=1) for s in ("info", "warning", "critical")}
        assert LedgerEntry(alert=alert()).rank == -1
        assert LedgerEntry(alert=alert(), told="info").rank == 0
        assert LedgerEntry(alert=alert(), told="critical").rank == 2
        assert LedgerEntry(alert=alert(), waiting=[notices["info"]]).rank == 0
        both = LedgerEntry(alert=alert(), told="info", waiting=[notices["critical"], notices["warning"]])
        assert both.rank == 2

    def test_what_is_new_has_nothing_behind_it(self) -> None:
        entry = LedgerEntry(alert=alert())
        assert (entry.told, entry.sequence, entry.ended_at, entry.known, entry.silenced) == (None, 0, None, True, False)
        assert (entry.waiting, entry.actor) == ([], "notifier")
        notice = Notice(alert=alert(), sequence=3)
        assert (notice.attempts, notice.tried_at) == (0, None)
        assert (StreamPosition().stream, StreamPosition().sequence) == ("", 0)


class TestLedger:
    def ledger(self, **more: object) -> SubscriptionLedger:
        return SubscriptionLedger(subscription(**more))

    def states(self, ledger: SubscriptionLedger, name: str = "a1") -> list[tuple[str, int]]:
        return [(notice.alert.state, notice.sequence) for notice in ledger.entries[name].waiting]

    def test_entries_are_its_own(self) -> None:
        given = {"a1": LedgerEntry(alert=alert())}
        ledger = SubscriptionLedger(subscription(), given)
        ledger.take(alert(id="b"), 1)
        assert set(given) == {"a1"}
        assert set(ledger.entries) == {"a1", "b"}

    def test_only_newer_sequences_of_an_alert_are_taken(self) -> None:
        ledger = self.ledger(states=EVERY)
        assert ledger.take(alert(), 5)
        assert not ledger.take(alert(state="updated"), 5)
        assert not ledger.take(alert(state="updated"), 4)
        assert ledger.take(alert(state="updated"), 6)
        assert ledger.entries["a1"].sequence == 6
        assert self.states(ledger) == [("opened", 5), ("updated", 6)]

    def test_a_change_that_says_nothing_new_is_not_stored(self) -> None:
        ledger = self.ledger()
        ledger.take(alert(severity="warning"), 1)
        assert not ledger.take(alert(severity="warning", state="updated"), 2)
        assert ledger.entries["a1"].sequence == 2
        assert not ledger.take(alert(severity="info", state="updated"), 3)
        assert ledger.take(alert(severity="critical", state="updated"), 4)
        assert self.states(ledger) == [("opened", 1), ("updated", 4)]

    def test_an_end_is_taken_also_where_none_is_told(self) -> None:
        ledger = self.ledger(states=["opened"])
        assert not self.ledger(states=["opened"], active=False).take(alert(), 1)
        assert ledger.take(alert(), 1)
        assert ledger.take(alert(state="resolved", at=at(3)), 2)
        assert self.states(ledger) == [("opened", 1)]
        assert ledger.entries["a1"].ended_at == at(3)
        assert ledger.entries["a1"].sequence == 2

    def test_what_is_switched_off_takes_no_end(self) -> None:
        ledger = self.ledger()
        ledger.take(alert(), 1)
        ledger.subscription = subscription(active=False)
        assert not ledger.take(alert(state="resolved"), 2)
        assert ledger.entries["a1"].ended_at is None

    def test_what_ended_does_not_change_any_more(self) -> None:
        ledger = self.ledger(states=EVERY)
        ledger.take(alert(severity="info"), 1)
        ledger.take(alert(severity="info", state="resolved", at=at(3)), 2)
        assert not ledger.take(alert(severity="critical", state="updated"), 3)
        assert ledger.entries["a1"].alert.state == "resolved"
        ledger.take(alert(severity="info", state="resolved", at=at(3)), 4)
        assert self.states(ledger) == [("opened", 1), ("resolved", 2)]

    def test_an_unknown_beginning_has_an_end_to_tell(self) -> None:
        ledger = self.ledger()
        assert ledger.take(alert(state="resolved"), 1)
        assert not ledger.entries["a1"].known
        assert self.states(ledger) == [("resolved", 1)]
        ledger.drop("a1")
        assert self.states(ledger) == []

    def test_what_was_never_told_nor_waits_has_no_end_to_tell(self) -> None:
        ledger = self.ledger(states=["updated", "resolved"])
        ledger.take(alert(), 1)
        ledger.take(alert(state="resolved"), 2)
        assert self.states(ledger) == []
        told = self.ledger()
        told.take(alert(severity="info"), 1)
        told.delivered("a1")
        told.take(alert(severity="info", state="resolved"), 2)
        assert self.states(told) == [("resolved", 2)]

    def test_it_adopts_what_is_open_as_if_seen_when_it_began(self) -> None:
        ledger = self.ledger(created_at=at(50))
        assert ledger.adopt(alert(at=at(1)))
        assert ledger.entries["a1"].alert.at == at(1)
        assert self.states(ledger) == [("opened", 0)]
        assert not ledger.adopt(alert(at=at(99)))
        assert not self.ledger(nodes=["other"]).adopt(alert())

    def test_an_incident_tells_only_what_is_worse_than_all_of_it(self) -> None:
        ledger = self.ledger(by_incident=True, states=EVERY)
        ledger.take(alert(id="a", incident="i", severity="warning"), 1)
        ledger.take(alert(id="b", incident="i", severity="warning"), 2)
        ledger.take(alert(id="c", incident="i", severity="critical"), 3)
        ledger.take(alert(id="d", incident="j", severity="info"), 4)
        ledger.take(alert(id="f", incident="i", severity="info"), 4)
        ledger.take(alert(id="e", severity="info"), 5)
        ledger.take(alert(id="a", incident="i", severity="warning", state="updated"), 6)
        assert {key: len(entry.waiting) for key, entry in ledger.entries.items()} == {
            "a": 2, "b": 0, "c": 1, "d": 1, "e": 1, "f": 0,
        }  # fmt: skip

    def test_of_changes_that_wait_the_newest_stays_and_still_says_that_it_is_worse(self) -> None:
        ledger = self.ledger(states=EVERY)
        ledger.take(alert(), 1)
        ledger.take(alert(state="updated", escalated=True), 2)
        ledger.take(alert(state="updated"), 3)
        assert self.states(ledger) == [("opened", 1), ("updated", 3)]
        assert ledger.entries["a1"].waiting[1].alert.escalated
        plain = self.ledger(states=EVERY)
        for sequence in (1, 2, 3):
            plain.take(alert(state="updated"), sequence)
        assert self.states(plain) == [("updated", 1), ("updated", 3)]
        assert not plain.entries["a1"].waiting[1].alert.escalated
        plain.take(alert(state="updated", escalated=True), 4)
        assert plain.entries["a1"].waiting[1].alert.escalated

    def test_what_nobody_ended_ends_once(self) -> None:
        ledger = self.ledger()
        ledger.take(alert(), 4)
        ledger.end("a1", at(9))
        entry = ledger.entries["a1"]
        assert (entry.ended_at, entry.sequence, entry.alert.end_reason) == (
            at(9),
            4,
            subscription_ledger.NEVER_PUBLISHED,
        )
        ledger.end("a1", at(99))
        assert ledger.entries["a1"] == entry

    def test_after_a_new_stream_every_sequence_is_newer(self) -> None:
        ledger = self.ledger(states=EVERY)
        ledger.take(alert(), 900)
        ledger.restart()
        assert ledger.entries["a1"].sequence == 0
        assert ledger.take(alert(state="updated"), 1)

    def test_what_was_told_is_the_worst(self) -> None:
        ledger = self.ledger(states=EVERY)
        ledger.take(alert(severity="critical"), 1)
        ledger.take(alert(severity="info", state="updated"), 2)
        ledger.delivered("a1")
        assert (ledger.entries["a1"].told, self.states(ledger)) == ("critical", [("updated", 2)])
        ledger.delivered("a1")
        assert ledger.entries["a1"].told == "critical"

    def test_dropping_takes_the_end_along_only_where_nothing_was_told(self) -> None:
        for told, left in ((0, []), (1, [("resolved", 3)])):
            ledger = self.ledger(states=EVERY)
            ledger.take(alert(), 1)
            ledger.take(alert(state="updated"), 2)
            ledger.take(alert(state="resolved"), 3)
            for _ in range(told):
                ledger.delivered("a1")
            ledger.drop("a1")
            assert self.states(ledger) == ([("updated", 2)] if not told else left)

    def test_dropping_leaves_what_was_opened_again(self) -> None:
        ledger = self.ledger()
        ledger.take(alert(severity="info"), 1)
        ledger.take(alert(severity="warning"), 2)
        ledger.drop("a1")
        assert self.states(ledger) == [("opened", 2)]

    def test_what_grew_past_the_filter_is_not_told_but_its_end_is(self) -> None:
        ledger = self.ledger(severities=["warning"])
        assert ledger.take(alert(severity="warning"), 1)
        assert not ledger.take(alert(severity="critical", state="updated"), 2)
        assert ledger.entries["a1"].sequence == 1
        assert ledger.take(alert(severity="critical", state="resolved"), 3)
        assert self.states(ledger) == [("opened", 1), ("resolved", 3)]

    def test_an_escalation_replaces_what_waits_before_it(self) -> None:
        ledger = self.ledger(states=EVERY)
        ledger.take(alert(), 1)
        ledger.take(alert(state="updated"), 2)
        ledger.take(alert(state="resolved"), 3)
        ledger.supersede("a1")
        assert self.states(ledger) == [("updated", 2), ("resolved", 3)]
        assert ledger.entries["a1"].told is None

    def test_attempts_are_counted_from_the_first(self) -> None:
        ledger = self.ledger(states=EVERY)
        ledger.take(alert(), 1)
        ledger.take(alert(state="updated"), 2)
        assert ledger.failed("a1", at(5)).attempts == 1
        again = ledger.failed("a1", at(9))
        assert (again.attempts, again.tried_at) == (2, at(5))
        first, second = ledger.entries["a1"].waiting
        assert (first, second.attempts) == (again, 0)
        ledger.silence("a1")
        assert ledger.entries["a1"].silenced

    def test_an_entry_is_over_when_it_ended_and_nothing_waits(self) -> None:
        ledger = self.ledger()
        ledger.take(alert(), 1)
        assert not ledger.over("a1", at(9))
        ledger.take(alert(state="resolved", at=at(5)), 2)
        ledger.delivered("a1")
        assert not ledger.over("a1", at(9))
        ledger.delivered("a1")
        assert ledger.over("a1", at(5))
        assert ledger.sweep(at(5)) == {"a1"}
        assert ledger.entries == {}

    def test_an_incident_is_remembered_for_a_day(self) -> None:
        ledger = self.ledger(by_incident=True)
        ledger.take(alert(), 1)
        ledger.delivered("a1")
        ledger.take(alert(state="resolved", at=at(5)), 2)
        ledger.delivered("a1")
        day = timedelta(days=1)
        assert not ledger.over("a1", at(5) + day)
        assert ledger.sweep(at(5) + day) == set()
        assert ledger.over("a1", at(6) + day)

    def test_no_more_than_five_thousand_ended_alerts_are_remembered(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert subscription_ledger.MAX_REMEMBERED == 5000
        monkeypatch.setattr(subscription_ledger, "MAX_REMEMBERED", 2)
        ended = {
            name: LedgerEntry(alert=alert(id=name), ended_at=at(seconds))
            for name, seconds in (("a", 3), ("b", 1), ("c", 2), ("d", 4))
        }
        waits = LedgerEntry(alert=alert(id="w"), ended_at=at(0), waiting=[Notice(alert=alert(), sequence=1)])
        ledger = SubscriptionLedger(subscription(by_incident=True), ended | {"w": waits})
        assert ledger.sweep(at(5)) == {"b", "c"}
        assert ledger.sweep(at(5)) == set()
        assert set(ledger.entries) == {"a", "d", "w"}

    def test_the_most_severe_goes_first_then_what_came_first(self) -> None:
        ledger = self.ledger(states=EVERY)
        for sequence, (name, severity) in enumerate(
            [("a", "info"), ("d", "warning"), ("c", "critical"), ("b", "warning"), ("e", "info")], 1
        ):
            ledger.take(alert(id=name, severity=severity), sequence)
        assert ledger.waiting() == ["c", "d", "b", "a", "e"]
        ledger.take(alert(id="e", severity="critical", state="updated"), 9)
        assert ledger.waiting() == ["c", "e", "d", "b", "a"]
        assert ledger.pending_count == 5
        ledger.delivered("c")
        assert ledger.pending_count == 4
        assert ledger.waiting() == ["e", "d", "b", "a"]

    def test_one_end_for_an_incident_and_each_its_own_without(self) -> None:
        for by_incident, waiting in ((True, []), (False, ["a"])):
            ledger = self.ledger(by_incident=by_incident)
            ledger.take(alert(id="a", incident="i", severity="warning"), 1)
            ledger.take(alert(id="b", incident="i", severity="critical"), 2)
            ledger.delivered("a")
            ledger.delivered("b")
            ledger.take(alert(id="a", incident="i", severity="warning", state="resolved", at=at(3)), 3)
            assert ledger.waiting() == waiting
            assert ledger.open() == ["b"]
            told = ["a", "b"] if by_incident else ["b"]
            assert [entry.alert.id for entry in ledger.open_and_told()] == told

    def test_news_of_an_incident_that_goes_on_are_told_other_than_ends(self) -> None:
        ledger = self.ledger(by_incident=True, states=EVERY)
        ledger.take(alert(id="a", incident="i", severity="warning"), 1)
        ledger.delivered("a")
        ledger.take(alert(id="a", incident="i", severity="critical", state="updated"), 2)
        assert ledger.waiting() == ["a"]

    def test_only_a_change_after_a_change_replaces_it(self) -> None:
        ledger = self.ledger(states=EVERY)
        changes = [("info", "opened"), ("warning", "opened"), ("critical", "updated"), ("critical", "updated")]
        for sequence, (severity, state) in enumerate(changes, 1):
            ledger.take(alert(severity=severity, state=state), sequence)
        assert self.states(ledger) == [("opened", 1), ("opened", 2), ("updated", 4)]

    def test_a_beginning_that_waits_goes_although_the_end_behind_it_has_to_wait(self) -> None:
        ledger = self.ledger(by_incident=True)
        ledger.take(alert(id="a", incident="i"), 1)
        ledger.take(alert(id="b", incident="i"), 2)
        ledger.take(alert(id="a", incident="i", state="resolved"), 3)
        assert ledger.waiting() == ["a"]
        ledger.delivered("a")
        assert ledger.waiting() == []

    def test_every_update_is_told_also_of_an_incident_of_no_weight(self) -> None:
        ledger = self.ledger(by_incident=True, states=EVERY)
        ledger.take(alert(severity="info"), 1)
        ledger.take(alert(severity="info", state="updated"), 2)
        assert self.states(ledger) == [("opened", 1), ("updated", 2)]

    def test_open_and_told_are_those_that_somebody_knows_of(self) -> None:
        ledger = self.ledger()
        ledger.take(alert(id="a"), 1)
        assert ledger.open_and_told() == []
        assert ledger.open() == ["a"]
        ledger.delivered("a")
        assert [entry.alert.id for entry in ledger.open_and_told()] == ["a"]
        ledger.take(alert(id="a", state="resolved"), 2)
        assert ledger.open_and_told() == []
        ledger.delivered("a")
        assert ledger.open_and_told() == []

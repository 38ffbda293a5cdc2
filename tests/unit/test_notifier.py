"""Filters, retries, the breaker, and receivers inside the network."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accelerator_autopilot.cli.webhook_receiver import WebhookCatcher
from accelerator_autopilot.contracts.errors import InvalidInputError, UnavailableError
from accelerator_autopilot.contracts.messages.notifications import Silence
from accelerator_autopilot.notifier.adapters.webhook_sender import AiohttpWebhookSender, is_public
from accelerator_autopilot.notifier.application.alert_consumer import stream_filters
from accelerator_autopilot.notifier.domain.circuit_breaker import CircuitBreaker
from accelerator_autopilot.notifier.domain.delivery_rules import Rate, quiet_s, retry_delay_s, silenced, wants
from accelerator_autopilot.notifier.domain.message_formats import body_of
from accelerator_autopilot.notifier.domain.subscription_ledger import LedgerEntry, SubscriptionLedger
from accelerator_autopilot.notifier.errors import RefusedTargetError
from accelerator_autopilot.transport.clock import utc_now
from tests.support.builders import T0, WEBHOOK_SECRET, alert, at, subscription


def test_filters_take_what_they_name_and_empty_ones_all() -> None:
    assert wants(subscription(), alert())
    assert wants(subscription(severities=["critical"], kinds=["thermal"], nodes=["n1"]), alert())
    assert not wants(subscription(severities=["warning"]), alert())
    assert not wants(subscription(created_at=at(5)), alert())
    assert not wants(subscription(active=False), alert())


@given(attempt=st.integers(1, 1000), jitter=st.floats(0, 1))
def test_delays_are_bounded_and_spread(attempt: int, jitter: float) -> None:
    assert 0.5 <= retry_delay_s(attempt, jitter) <= 600
    assert retry_delay_s(attempt, 0.0) == pytest.approx(retry_delay_s(attempt, 1.0) / 2)


def test_the_breaker_opens_after_failures_in_a_row_and_closes_on_success() -> None:
    breaker = CircuitBreaker()
    assert [breaker.failed(0.0) for _ in range(5)] == [False] * 4 + [True]
    assert breaker.wait_s(1.0) == 4.0
    assert breaker.failed(5.0)
    assert breaker.wait_s(5.0) == 10.0
    breaker.succeeded()
    assert breaker.wait_s(5.0) == 0.0


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:9/x",
        "http://localhost:9/x",
        "http://169.254.169.254/latest",
        "http://10.0.0.1/",
        "http://[::1]:9/",
        "http://[64:ff9b::a9fe:a9fe]/",
        "http://[64:ff9b:1::1]/",
        "http://[2002:a9fe:a9fe::1]/",
        "http://[2001:0:1::1]/",
        "http://[fec0::1]/",
        "http://[::7f00:1]/",
        "http://[::ffff:10.0.0.1]/",
        "http://[ff02::1]/",
        "http://224.0.0.1/",
        "http://0.0.0.0/",
        "http://[2001:db8::1]/",
        "http://198.51.100.1/",
    ],
)
async def test_receivers_inside_the_network_are_refused(url: str) -> None:
    receiver = AiohttpWebhookSender(1.0, private_targets=False)
    with pytest.raises(RefusedTargetError, match="not a public address"):
        await receiver.post(subscription(url), "msg_1", T0, {})
    await receiver.close()


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"])
def test_public_receivers_are_not_refused(address: str) -> None:
    assert is_public(address)


async def test_a_delivery_is_signed_and_failures_are_told() -> None:
    catcher = WebhookCatcher(answers=(204, 500, 302))
    catcher.start()
    receiver = AiohttpWebhookSender(2.0, private_targets=True)
    try:
        assert (
            await receiver.post(
                subscription(catcher.url), "msg_1", utc_now(), body_of(subscription(), alert(), "msg_1")
            )
            == 204
        )
        verified = catcher.caught[0].verified(WEBHOOK_SECRET)
        assert verified is not None
        assert verified["data"]["kind"] == "thermal"
        assert catcher.caught[0].verified("whsec_" + "WFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhY") is None
        for status in ("500", "302"):
            with pytest.raises(UnavailableError, match=status):
                await receiver.post(subscription(catcher.url), "msg_2", utc_now(), {})
    finally:
        await receiver.close()
        catcher.stop()


class TestFormats:
    def of(self, channel: str, state: str = "opened", **more: object) -> Any:
        made = subscription(channel=channel, **more)
        return body_of(made, alert(state=state, summary='hot "a"\nb'), "msg_1")

    def test_each_channel_gets_its_own_words(self) -> None:
        assert self.of("webhook")["type"] == "alert.opened"
        event = self.of("cloudevents")
        assert (event["specversion"], event["id"], event["datacontenttype"]) == ("1.0", "msg_1", "application/json")
        (told,) = self.of("alertmanager", "resolved")
        assert told["labels"]["alertname"] == "thermal"
        assert told["endsAt"] == T0.isoformat()
        assert self.of("alertmanager")[0]["endsAt"] == at(240).isoformat()
        assert "thermal" in self.of("slack")["text"]
        page = self.of("pagerduty", "resolved")
        assert (page["event_action"], page["dedup_key"], page["routing_key"]) == ("resolve", "a1", WEBHOOK_SECRET)

    def test_a_template_is_filled_and_quotes_cannot_break_it(self) -> None:
        body = self.of("template", template='{"text": "$kind on $device: $summary", "n": 1}')
        assert body == {"text": 'thermal on gpu-0: hot "a"\nb', "n": 1}

    @pytest.mark.parametrize(
        ("template", "message"),
        [
            ("{$nothing}", "not a field of an alert"),
            ("{$kind", "does not produce valid JSON"),
            ('"$kind"', "object or list"),
        ],
    )
    def test_a_template_that_fails_says_why(self, template: str, message: str) -> None:
        with pytest.raises(InvalidInputError, match=message):
            self.of("template", template=template)

    def test_a_template_channel_needs_one_and_quiet_hours_come_in_pairs(self) -> None:
        with pytest.raises(ValueError, match="needs a template"):
            subscription(channel="template")
        with pytest.raises(ValueError, match="given together"):
            subscription(quiet_from="22:00")


class TestLedger:
    def ledger(self, **more: object) -> SubscriptionLedger:
        return SubscriptionLedger(subscription(**more))

    def told(
        self, ledger: SubscriptionLedger, *changes: tuple[str, str, str], incident: str = "", start: int = 1
    ) -> list[str]:
        """The states that are told at once of (alert, severity, state)."""
        told = []
        for sequence, (name, severity, state) in enumerate(changes, start):
            ledger.take(alert(id=name, severity=severity, state=state, incident=incident), sequence)
            if ledger.entries[name].waiting:
                told.append(f"{name} {state}")
                ledger.delivered(name)
        return told

    def test_people_are_told_of_the_beginning_what_is_worse_and_the_end(self) -> None:
        minutes = [("a", "warning", "updated")] * 5
        changes = [("a", "warning", "opened"), *minutes, ("a", "critical", "updated"), *minutes]
        ended = [*changes, ("a", "critical", "resolved")]
        assert self.told(self.ledger(), *ended) == ["a opened", "a updated", "a resolved"]
        every = self.ledger(states=["opened", "updated", "resolved"])
        assert len(self.told(every, *ended)) == len(ended)

    def test_an_incident_is_told_once_unless_it_gets_worse_also_across_restarts(
        self,
    ) -> None:
        first = self.ledger(by_incident=True)
        opened = [("a", "warning", "opened"), ("b", "warning", "opened"), ("c", "critical", "opened")]
        told = self.told(first, *opened, ("d", "critical", "opened"), ("a", "warning", "updated"), incident="i1")
        assert told == ["a opened", "c opened"]
        kept = {key: LedgerEntry.model_validate_json(entry.model_dump_json()) for key, entry in first.entries.items()}
        second = SubscriptionLedger(first.subscription, kept)
        ends = [(name, "warning", "resolved") for name in ("a", "b")]
        assert self.told(second, *ends, ("f", "warning", "opened"), incident="i1", start=10) == ["a resolved"]
        assert self.told(second, ("e", "info", "opened"), incident="i2", start=20) == ["e opened"]

    def test_the_same_message_twice_is_one_and_what_began_before_the_ledger_has_an_end(self) -> None:
        ledger = self.ledger()
        assert ledger.take(alert(), 5)
        assert not ledger.take(alert(), 5)
        assert len(ledger.entries["a1"].waiting) == 1
        assert self.told(self.ledger(), ("old", "critical", "resolved")) == ["old resolved"]

    def test_what_was_never_told_has_no_end_and_is_forgotten(self) -> None:
        ledger = self.ledger()
        ledger.take(alert(), 1)
        ledger.take(alert(state="resolved", at=at(9)), 2)
        ledger.drop("a1")
        assert ledger.entries["a1"].waiting == []
        assert ledger.sweep(at(10)) == {"a1"}

    def test_what_became_worse_than_is_wanted_has_an_end(self) -> None:
        ledger = self.ledger(severities=["warning"])
        changes = [("a", "warning", "opened"), ("a", "critical", "updated"), ("a", "critical", "resolved")]
        assert self.told(ledger, *changes) == ["a opened", "a resolved"]
        assert not ledger.take(alert(id="b", severity="critical", state="resolved"), 9)
        assert stream_filters(ledger.subscription) == ["alerts.critical.*.*", "alerts.warning.*.*"]
        assert stream_filters(subscription(severities=["critical"])) == ["alerts.critical.*.*"]
        assert stream_filters(subscription(severities=["info"])) == []

    def test_the_end_of_an_incident_is_told_when_its_last_alert_has_ended(self) -> None:
        ledger = self.ledger(by_incident=True)
        for sequence, (name, state) in enumerate([("a", "opened"), ("b", "opened"), ("a", "resolved")], 1):
            ledger.take(alert(id=name, state=state, incident="i"), sequence)
            if ledger.waiting():
                ledger.delivered(name)
        assert ledger.waiting() == []
        assert [entry.alert.id for entry in ledger.open_and_told()] == ["a"]
        ledger.take(alert(id="b", state="resolved", incident="i"), 9)
        assert ledger.waiting() == ["a"]

    def test_what_was_open_before_is_adopted_once_if_it_is_wanted(self) -> None:
        ledger = self.ledger(severities=["critical"], created_at=at(100))
        assert not ledger.adopt(alert(id="a", severity="warning", at=at(1)))
        assert ledger.adopt(alert(id="b", severity="critical", at=at(1)))
        assert not ledger.adopt(alert(id="b", severity="critical", at=at(1)))
        assert ledger.waiting() == ["b"]


class TestTiming:
    def test_quiet_hours_over_midnight_spare_all_but_critical(self) -> None:
        night = subscription(quiet_from="22:00", quiet_to="07:00")
        late, early, noon = (datetime(2026, 1, 2, h, 30, tzinfo=UTC) for h in (23, 6, 12))
        warning = alert(severity="warning")
        assert quiet_s(night, warning, late) == 7.5 * 3600
        assert quiet_s(night, warning, early) == 1800
        assert quiet_s(night, warning, noon) == 0
        assert quiet_s(night, alert(severity="critical"), late) == 0

    def test_a_rate_lets_so_many_through_a_minute(self) -> None:
        rate = Rate()
        assert [rate.wait_s(2, now) for now in (0.0, 1.0, 2.0, 61.0)] == [0.0, 0.0, 58.0, 0.0]
        assert Rate().wait_s(None, 0.0) == 0.0

    def test_a_silence_covers_what_matches_while_it_lasts(self) -> None:
        silence = Silence(id="q", node="n*", kind="thermal", starts_at=at(0), ends_at=at(60), created_by="ada")
        assert silenced([silence], alert(), at(5)) is silence
        assert silenced([silence], alert(), at(61)) is None
        assert silenced([silence], alert(kind="xid_79"), at(5)) is None
        with pytest.raises(ValueError, match="after starts_at"):
            Silence(id="q", starts_at=at(0), ends_at=at(0), created_by="ada")

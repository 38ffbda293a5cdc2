"""The pure rules of deliveries to the value: breaker, filters, holds, rates and formats."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from accelerator_autopilot.contracts.errors import InvalidInputError
from accelerator_autopilot.contracts.messages.alerts import Evidence
from accelerator_autopilot.contracts.messages.notifications import Silence
from accelerator_autopilot.notifier.domain import message_formats
from accelerator_autopilot.notifier.domain.circuit_breaker import CircuitBreaker
from accelerator_autopilot.notifier.domain.delivery_rules import Hold, Rate, hold, quiet_s, retry_delay_s, wants
from accelerator_autopilot.notifier.domain.message_formats import alertmanager_end, body_of
from tests.support.builders import T0, WEBHOOK_SECRET, alert, at, subscription

EVERY = ["opened", "updated", "resolved"]


def evidence(value: float | None, metric: str = "temp_c") -> Evidence:
    return Evidence(metric=metric, value=value, expected="below 83", at=T0)


class TestCircuitBreaker:
    def test_the_pause_doubles_up_to_five_minutes(self) -> None:
        breaker = CircuitBreaker()
        assert breaker.wait_s(0.0) == breaker.open_until_s == 0.0
        assert not any(breaker.failed(7.0) for _ in range(4))
        assert breaker.wait_s(7.0) == 0.0
        pauses = []
        for _ in range(8):
            assert breaker.failed(100.0)
            pauses.append(breaker.wait_s(100.0))
        assert pauses == [5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0]
        assert breaker.wait_s(399.0) == 1.0
        assert breaker.wait_s(401.0) == 0.0

    def test_a_success_makes_it_as_good_as_new(self) -> None:
        breaker = CircuitBreaker()
        for _ in range(7):
            breaker.failed(1.0)
        breaker.succeeded()
        assert breaker == CircuitBreaker(failures=0, open_until_s=0.0) == CircuitBreaker()
        assert [breaker.failed(0.0) for _ in range(5)] == [False] * 4 + [True]
        assert breaker.wait_s(0.0) == 5.0


class TestWants:
    @pytest.mark.parametrize("name", ["severities", "kinds", "nodes", "devices"])
    def test_each_filter_alone_refuses_what_it_does_not_name(self, name: str) -> None:
        named = {"severities": "critical", "kinds": "thermal", "nodes": "n1", "devices": "gpu-0"}[name]
        assert wants(subscription(**{name: ["other", named]}), alert())
        assert not wants(subscription(**{name: ["other"]}), alert())

    def test_states_count_unless_any_will_do(self) -> None:
        only = subscription(states=["resolved"])
        assert wants(only, alert(state="resolved"))
        assert not wants(only, alert())
        assert wants(only, alert(), any_state=True)
        assert wants(subscription(), alert(), any_state=False)

    def test_what_is_older_than_the_subscription_is_not_wanted(self) -> None:
        assert wants(subscription(created_at=at(5)), alert(at=at(5)))
        assert wants(subscription(created_at=at(5)), alert(at=at(6)))
        assert not wants(subscription(created_at=at(5)), alert(at=at(4.999)))
        assert not wants(subscription(active=False), alert(at=at(9)))


def clock(hour: int, minute: int = 0, second: int = 0) -> datetime:
    return datetime(2026, 1, 2, hour, minute, second, tzinfo=UTC)


class TestQuietHours:
    @pytest.mark.parametrize(
        ("begin", "end", "now", "left_s"),
        [
            ("12:00", "13:00", clock(11, 59, 59), 0),
            ("12:00", "13:00", clock(12), 3600),
            ("12:00", "13:00", clock(12, 59, 59), 1),
            ("12:00", "13:00", clock(13), 0),
            ("22:00", "07:00", clock(21, 59, 59), 0),
            ("22:00", "07:00", clock(22), 9 * 3600),
            ("22:00", "07:00", clock(0), 7 * 3600),
            ("22:00", "07:00", clock(6, 59, 59), 1),
            ("22:00", "07:00", clock(7), 0),
            ("12:00", "12:00", clock(12), 24 * 3600),
            ("12:00", "12:00", clock(11), 3600),
        ],
    )
    def test_they_last_from_their_beginning_to_just_before_their_end(
        self, begin: str, end: str, now: datetime, left_s: float
    ) -> None:
        quiet = subscription(quiet_from=begin, quiet_to=end)
        assert quiet_s(quiet, alert(severity="warning"), now) == left_s
        elsewhere = now.astimezone(timezone(timedelta(hours=11)))
        assert quiet_s(quiet, alert(severity="info"), elsewhere) == left_s
        assert quiet_s(quiet, alert(severity="critical"), now) == 0.0

    def test_without_them_nothing_is_quiet(self) -> None:
        assert quiet_s(subscription(), alert(severity="info"), clock(3)) == 0.0


class TestHold:
    silence = Silence(id="q", starts_at=at(0), ends_at=at(60), created_by="ada")
    night = {"quiet_from": "00:00", "quiet_to": "01:00"}

    def test_a_silence_comes_first_and_does_not_hold_a_resolution(self) -> None:
        waiting = subscription(escalate_after_s=300, **self.night)
        assert hold(waiting, [self.silence], alert(), at(5)) == Hold("silenced", at(60))
        assert hold(subscription(), [self.silence], alert(state="resolved"), at(5)) is None
        assert hold(subscription(), [], alert(), at(5)) is None

    def test_escalation_counts_from_when_the_alert_was_opened(self) -> None:
        waiting = subscription(escalate_after_s=300)
        opened = alert(opened_at=at(10), at=at(200))
        assert hold(waiting, [], opened, at(309)) == Hold("escalating", at(310))
        assert hold(waiting, [], opened, at(310)) is None
        assert hold(waiting, [], opened, at(900)) is None
        assert hold(waiting, [], alert(opened_at=at(10), state="resolved"), at(20)) is None
        assert hold(subscription(), [], alert(opened_at=at(99)), at(20)) is None

    def test_quiet_hours_hold_a_resolution_too(self) -> None:
        quiet = subscription(**self.night)
        for state in EVERY:
            assert hold(quiet, [], alert(severity="warning", state=state), at(5)) == Hold("quiet", at(3600))
        assert hold(quiet, [], alert(severity="warning"), at(3599.5)) == Hold("quiet", at(3600))
        assert hold(quiet, [], alert(severity="warning"), at(3600)) is None

    def test_a_hold_is_a_value(self) -> None:
        with pytest.raises(FrozenInstanceError):
            Hold("quiet", T0).until = at(1)  # type: ignore[misc]


class TestRates:
    def test_the_oldest_of_the_last_minute_says_how_long_to_wait(self) -> None:
        rate = Rate()
        times = (0.0, 10.0, 59.0, 59.5, 60.0, 60.5, 70.0, 119.0)
        assert [rate.wait_s(2, now) for now in times] == [0.0, 0.0, 1.0, 0.5, 0.0, 9.5, 0.0, 1.0]

    def test_one_that_waits_does_not_count_and_several_expire_at_once(self) -> None:
        rate = Rate()
        assert [rate.wait_s(1, now) for now in (5.0, 6.0, 7.0, 65.0)] == [0.0, 59.0, 58.0, 0.0]
        assert rate.wait_s(1, 999.0) == 0.0
        many = Rate()
        assert [many.wait_s(3, 0.0) for _ in range(4)] == [0.0, 0.0, 0.0, 60.0]
        assert [many.wait_s(3, 60.0) for _ in range(4)] == [0.0, 0.0, 0.0, 60.0]

    def test_without_a_limit_nothing_waits_or_counts(self) -> None:
        rate = Rate()
        assert [rate.wait_s(None, 0.0) for _ in range(3)] == [0.0] * 3
        assert rate == Rate()

    def test_retries_double_up_to_ten_minutes_with_jitter_in_the_upper_half(self) -> None:
        assert [retry_delay_s(n, 1.0) for n in (1, 2, 3, 10, 11, 5000)] == [1.0, 2.0, 4.0, 512.0, 600.0, 600.0]
        assert [retry_delay_s(3, jitter) for jitter in (0.0, 0.5, 1.0)] == [2.0, 3.0, 4.0]


class TestFormats:
    def of(self, channel: str, more: dict[str, object] | None = None, **of_alert: Any) -> Any:
        return body_of(subscription(channel=channel, **(more or {})), alert(**of_alert), "msg_1")

    def test_a_webhook_has_the_whole_alert(self) -> None:
        told = alert(state="updated", at=at(7))
        assert self.of("webhook", state="updated", at=at(7)) == {
            "type": "alert.updated",
            "timestamp": "2026-01-01T00:00:07+00:00",
            "data": told.model_dump(mode="json"),
        }

    def test_a_cloud_event_is_complete(self) -> None:
        assert self.of("cloudevents", at=at(7)) == {
            "specversion": "1.0",
            "id": "msg_1",
            "source": "/accelerator-autopilot/n1/gpu-0",
            "type": "accelerator-autopilot.alert.opened",
            "subject": "a1",
            "time": "2026-01-01T00:00:07+00:00",
            "datacontenttype": "application/json",
            "data": alert(at=at(7)).model_dump(mode="json"),
        }

    def test_alertmanager_gets_labels_that_identify_and_an_end_ahead(self) -> None:
        labels = {"alertname": "thermal", "severity": "critical", "node": "n1", "device": "gpu-0"}
        found = [evidence(90.0), evidence(None, "x"), evidence(0.0, "fan_pct")]
        (open_,) = self.of("alertmanager", action="cool it", evidence=found, at=at(60))
        assert open_ == {
            "labels": labels,
            "annotations": {
                "summary": "hot",
                "action": "cool it",
                "evidence": "temp_c 90 (below 83); fan_pct 0 (below 83)",
            },
            "startsAt": T0.isoformat(),
            "endsAt": at(300).isoformat(),
        }
        (ended,) = self.of("alertmanager", state="resolved", at=at(60), simulated=True)
        assert (ended["labels"], ended["endsAt"]) == (labels | {"simulated": "true"}, at(60).isoformat())
        (worse,) = self.of("alertmanager", state="updated", at=at(60))
        assert worse["endsAt"] == at(300).isoformat()
        (early,) = self.of("alertmanager", state="resolved", opened_at=at(90), at=at(60))
        assert early["startsAt"] == early["endsAt"] == at(60).isoformat()

    def test_an_alert_ends_under_the_severity_that_it_had(self) -> None:
        (ended,) = alertmanager_end(subscription(), alert(severity="critical", at=at(9)), "warning")
        assert (ended["labels"]["severity"], ended["endsAt"]) == ("warning", at(9).isoformat())  # type: ignore[index]

    def test_slack_gets_a_line_fields_and_what_to_do(self) -> None:
        found = [evidence(float(n)) for n in range(13)]
        text = ":rotating_light: opened: thermal on n1/gpu-0 (simulated): hot"
        field = {"type": "mrkdwn", "text": "*temp_c* 1 (below 83)"}
        body = self.of("slack", evidence=found, simulated=True, action="cool it")
        section, fields, action = body["blocks"]
        assert body["text"] == text
        assert section == {"type": "section", "text": {"type": "mrkdwn", "text": text}}
        assert (fields["type"], fields["fields"][0], len(fields["fields"])) == ("section", field, 10)
        assert action == {"type": "context", "elements": [{"type": "mrkdwn", "text": "Action: cool it"}]}

    def test_slack_leaves_out_what_there_is_not(self) -> None:
        ended = self.of("slack", state="resolved", severity="info", evidence=[evidence(None), evidence(0.0)])
        assert ended["text"] == ":white_check_mark: resolved: thermal on n1/gpu-0: hot"
        assert len(ended["blocks"]) == 1
        assert self.of("slack", state="updated", severity="warning")["text"].startswith(
            ":warning: updated: thermal on "
        )
        assert self.of("slack", severity="info")["text"].startswith(":information_source: opened: ")

    def test_texts_are_cut_to_what_the_receiver_takes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        long = alert().model_copy(update={"summary": "s" * 9000, "action": "a" * 9000})
        slack = message_formats.slack(subscription(), long, "")
        assert isinstance(slack, dict)
        blocks: Any = slack["blocks"]
        texts = [slack["text"], blocks[0]["text"]["text"], blocks[-1]["elements"][0]["text"]]
        assert [len(str(text)) for text in texts] == [3000] * 3
        page: Any = message_formats.pagerduty(subscription(), long, "")
        assert len(page["payload"]["summary"]) == 1024
        assert page["payload"]["summary"].startswith("thermal on n1/gpu-0: sss")

    def test_pagerduty_triggers_and_resolves_under_one_key(self) -> None:
        body = self.of("pagerduty", severity="warning", action="cool it", simulated=True, state="updated")
        assert body == {
            "routing_key": WEBHOOK_SECRET,
            "event_action": "trigger",
            "dedup_key": "a1",
            "payload": {
                "summary": "thermal on n1/gpu-0: hot",
                "source": "n1/gpu-0",
                "severity": "warning",
                "timestamp": T0.isoformat(),
                "component": "gpu-0",
                "class": "thermal",
                "custom_details": {"action": "cool it", "evidence": "temp_c 90 (below 83 °C)", "simulated": True},
            },
        }
        assert self.of("pagerduty", state="resolved")["event_action"] == "resolve"

    def test_a_template_knows_every_field_the_evidence_and_the_message(self) -> None:
        template = '{"a": "$evidence", "b": "$message_id", "c": "$summary"}'
        found = [evidence(1.5, 'm"x')]
        body = self.of("template", {"template": template}, summary='a "b"\n', evidence=found)
        assert body == {"a": 'm"x 1.5 (below 83)', "b": "msg_1", "c": 'a "b"\n'}
        assert self.of("template", {"template": "[1]"}) == [1]

    @pytest.mark.parametrize(
        ("template", "message"),
        [("$nothing", "evidence.*message_id"), ("{", "valid JSON"), ("[" * 19_000, "valid JSON"), ("$", "valid JSON"),
         ("1", "object or list")],
    )  # fmt: skip
    def test_a_template_that_fails_says_why(self, template: str, message: str) -> None:
        with pytest.raises(InvalidInputError, match=message):
            self.of("template", {"template": template})

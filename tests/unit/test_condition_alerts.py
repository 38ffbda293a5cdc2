from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.errors import UnavailableError
from accelerator_autopilot.contracts.messages.alerts import Alert, Severity
from accelerator_autopilot.runtime.condition_alerts import Condition, ConditionAlerts

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Bench:
    """JetStream that may refuse, a clock, and a publisher that can be started again."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.refuses, self.refuses_bucket = NOW, False, False
        self.js: Any = None
        self.published: dict[str, Alert] = {}  # by message id: what comes twice is stored once
        self.stored: dict[str, Alert] = {}

        async def items(*_: object) -> dict[str, Alert]:
            self._check()
            return dict(self.stored)

        monkeypatch.setattr("accelerator_autopilot.runtime.condition_alerts.bucket_items", items)
        self.start()

    def start(self) -> None:
        bus: Any = self
        self.alerts = ConditionAlerts(
            bus, lambda a: a.id.startswith("me-"), actor="me", prefix="me-", clock=lambda: self.now
        )

    def _check(self) -> None:
        if self.refuses:
            raise UnavailableError("no space left on device")

    async def publish(self, _: str, alert: Alert, message_id: str) -> None:
        self._check()
        self.published.setdefault(message_id, alert)

    async def write(self, _: str, key: str, alert: Alert) -> None:
        self._check()
        if self.refuses_bucket:
            raise UnavailableError("bucket away")
        self.stored[key] = alert

    async def delete(self, _: str, key: str) -> None:
        self._check()
        self.stored.pop(key, None)

    async def check(self, *conditions: Condition, after_s: float = 1.0) -> None:
        self.now += timedelta(seconds=after_s)
        try:
            await self.alerts.settle(conditions)
        except UnavailableError:
            assert self.refuses or self.refuses_bucket

    @property
    def told(self) -> list[str]:
        """As people hear it: what is not escalated is a renewal, which they do not."""
        return [f"{a.state} {a.severity}" for a in self.published.values() if a.state != "updated" or a.escalated]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


def bad(severity: Severity = "warning", device: str = "disk") -> Condition:
    return Condition("n1", device, "disk_full", severity, f"{severity} on {device}", "make room")


async def test_opened_once_renewed_quietly_worse_and_over(bench: Bench) -> None:
    for _ in range(150):
        await bench.check(bad())
    assert bench.told == ["opened warning"]
    assert len(bench.published) == 3, "renewed in the stream once a minute"
    await bench.check(bad("critical"))
    await bench.check(bad("critical"))
    (stored,) = bench.stored.values()
    assert (stored.state, stored.severity, stored.worsened_at) == (
        "updated",
        "critical",
        bench.now - timedelta(seconds=1),
    )
    await bench.check(bad("warning"))
    assert next(iter(bench.stored.values())).severity == "warning"
    await bench.check()
    await bench.check()
    assert bench.told == ["opened warning", "updated critical", "resolved warning"]
    assert len({alert.id for alert in bench.published.values()}) == 1
    assert bench.stored == {}


async def test_each_device_has_an_alert_of_its_own(bench: Bench) -> None:
    await bench.check(bad(device="a"), bad(device="b"))
    await bench.check(bad(device="b"))
    assert list(bench.stored) == [subjects.alert_key("n1", "b", "disk_full")]
    assert bench.told == ["opened warning", "opened warning", "resolved warning"]


async def test_what_was_over_while_jetstream_refused_is_told_all_the_same(bench: Bench) -> None:
    await bench.check()
    bench.refuses = True
    await bench.check(bad("critical"))
    for _ in range(3):
        await bench.check()
    bench.refuses = False
    await bench.check()
    assert bench.told == ["opened critical", "resolved critical"]
    assert bench.stored == {}


async def test_what_came_and_went_often_meanwhile_is_one_alert(bench: Bench) -> None:
    await bench.check(bad())
    bench.refuses = True
    for _ in range(50):
        await bench.check(bad("critical"))
        await bench.check()
        await bench.check(bad())
    await bench.check(bad("critical"))
    bench.refuses = False
    await bench.check(bad("critical"))
    alerts = [f"{a.state} {a.severity}" for a in bench.published.values()]
    assert len(alerts) <= 4
    assert alerts[0] == "opened warning"
    assert next(iter(bench.stored.values())).severity == "critical"


async def test_half_a_telling_is_completed_and_not_repeated(bench: Bench) -> None:
    bench.refuses_bucket = True
    await bench.check(bad())
    await bench.check(bad())
    assert (bench.told, bench.stored) == (["opened warning"], {})
    bench.refuses_bucket = False
    await bench.check(bad())
    assert bench.told == ["opened warning"]
    assert len(bench.stored) == 1


@pytest.mark.parametrize("still", [True, False])
async def test_a_publisher_that_starts_again_goes_on_with_what_is_open(bench: Bench, still: bool) -> None:
    other = Alert(
        id="other", node="n2", device="disk", kind="disk_full", severity="warning", state="opened", summary="of others",
        opened_at=NOW, at=NOW,
    )  # fmt: skip
    bench.stored["other"] = other
    await bench.check(bad())
    bench.start()
    conditions = [bad()] if still else []
    await bench.check(*conditions)
    assert bench.told == ["opened warning", *([] if still else ["resolved warning"])]
    assert bench.stored.pop("other") == other
    assert len(bench.stored) == len(conditions)


async def test_one_that_starts_while_jetstream_refuses_opens_no_second_alert(bench: Bench) -> None:
    await bench.check(bad())
    bench.start()
    bench.refuses = True
    await bench.check(bad("critical"))
    await bench.check(bad())
    bench.refuses = False
    await bench.check(bad())
    await bench.check()
    assert len({alert.id for alert in bench.published.values()}) == 1
    assert bench.told == ["opened warning", "updated critical", "resolved warning"]


async def test_what_was_bad_only_before_jetstream_answered_is_told(bench: Bench) -> None:
    bench.refuses = True
    await bench.check(bad("critical"))
    await bench.check()
    bench.refuses = False
    await bench.check()
    assert bench.told == ["opened critical", "resolved critical"]


async def test_a_bucket_that_was_lost_has_the_alert_again_within_a_minute(bench: Bench) -> None:
    await bench.check(bad())
    bench.stored.clear()
    await bench.check(bad(), after_s=61)
    assert len(bench.stored) == 1
    assert bench.told == ["opened warning"]


async def test_a_name_that_no_subject_carries_keeps_no_other_alert_back(bench: Bench) -> None:
    odd = replace(bad(), node="." * 200, device="." * 200)
    await bench.check(odd, bad())
    await bench.check(odd, bad())
    assert bench.told == ["opened warning"]

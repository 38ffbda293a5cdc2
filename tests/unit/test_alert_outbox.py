"""Alerts on their way out while the stream refuses them, and frames meanwhile."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from accelerator_autopilot.anomaly.app import check_event
from accelerator_autopilot.anomaly.application import alert_outbox as outbox_module
from accelerator_autopilot.anomaly.application import frame_receiver as intake_module
from accelerator_autopilot.anomaly.application.alert_outbox import AlertOutbox, coalesced
from accelerator_autopilot.anomaly.application.frame_receiver import FrameReceiver
from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.errors import InvalidInputError, UnavailableError
from accelerator_autopilot.contracts.frame_packing import pack_frame
from accelerator_autopilot.contracts.frames import encode
from accelerator_autopilot.contracts.messages.alerts import Alert
from accelerator_autopilot.runtime.poison_messages import PoisonRule
from tests.support.builders import alert, at, event, frame
from tests.support.waiting import eventually


class FakeBus:
    """A stream and a bucket that may be away, or fail after they took something."""

    def __init__(self) -> None:
        self.away, self.loses_answers = False, False
        self.stream: dict[str, Alert] = {}
        self.bucket: dict[str, Alert] = {}

    async def publish(self, _subject: str, message: Alert, message_id: str) -> None:
        await asyncio.sleep(0)
        if self.away:
            raise UnavailableError("away")
        self.stream.setdefault(message_id, message)
        if self.loses_answers:
            raise UnavailableError("no answer")

    async def write(self, _bucket: str, key: str, value: Alert) -> None:
        if self.away:
            raise UnavailableError("away")
        self.bucket[key] = value

    async def delete(self, _bucket: str, key: str) -> None:
        if self.away:
            raise UnavailableError("away")
        self.bucket.pop(key, None)


@pytest.fixture
def bus(monkeypatch: pytest.MonkeyPatch) -> FakeBus:
    monkeypatch.setattr(outbox_module, "RETRY_INTERVAL_S", 0.01)
    return FakeBus()


def states(identity: str, *names: str, second: float = 0.0) -> list[Alert]:
    return [alert(id=identity, state=name, at=at(second + n)) for n, name in enumerate(names)]


@pytest.mark.parametrize(
    ("put", "left"),
    [
        (["opened", "updated", "updated"], ["opened"]),
        (["opened", "updated", "resolved"], ["opened", "resolved"]),
        (["updated", "updated", "resolved"], ["resolved"]),
        (["updated", "updated"], ["updated"]),
    ],
)
def test_what_went_on_gives_way_to_the_newest_state(put: list[str], left: list[str]) -> None:
    waiting: list[Alert] = []
    for one in states("a", *put):
        waiting = coalesced(waiting, one)
    assert [a.state for a in waiting] == left
    assert waiting[-1].at == at(len(put) - 1)


def test_that_it_got_worse_is_not_lost_among_updates() -> None:
    worse, again = states("a", "updated", "updated")
    assert coalesced([worse.model_copy(update={"escalated": True})], again)[0].escalated


@given(st.lists(st.sampled_from(["on", "off"]), max_size=40))
def test_what_one_alert_leaves_waiting_is_bounded_and_in_order(steps: list[str]) -> None:
    waiting: list[Alert] = []
    is_open, number = False, 0
    for second, step in enumerate(steps):
        if step == "on":
            number += not is_open
            one = alert(id=f"a{number}", state="updated" if is_open else "opened", at=at(second))
            is_open = True
        elif is_open:
            one, is_open = alert(id=f"a{number}", state="resolved", at=at(second)), False
        else:
            continue
        waiting = coalesced(waiting, one)
    assert len(waiting) <= 4
    assert waiting == sorted(waiting, key=lambda a: a.at)
    assert not waiting or (waiting[-1].state == "resolved") == (not is_open)
    for one in waiting:
        if one.state == "resolved":
            assert one.id not in {a.id for a in waiting[waiting.index(one) + 1 :]}


async def test_an_outage_holds_up_nobody_and_is_told_in_order(bus: FakeBus) -> None:
    box = AlertOutbox(bus, CollectorRegistry())  # type: ignore[arg-type]
    running = asyncio.create_task(box.run())
    bus.away = True
    for one in [*states("a", "opened", "updated", "resolved"), *states("b", "opened", second=10)]:
        box.put(one)
        await asyncio.sleep(0.02)
    with pytest.raises(UnavailableError):
        await box.settled("n1", "gpu-0", 0.05)
    bus.away = False
    await box.settled("n1", "gpu-0", 5.0)
    told = [(a.id, a.state) for a in bus.stream.values()]
    assert told == [("a", "opened"), ("a", "resolved"), ("b", "opened")]
    assert [a.id for a in bus.bucket.values()] == ["b"]
    running.cancel()


async def test_a_state_that_may_have_arrived_is_not_dropped(bus: FakeBus) -> None:
    box = AlertOutbox(bus, CollectorRegistry())  # type: ignore[arg-type]
    running = asyncio.create_task(box.run())
    bus.loses_answers = True
    opened, updated, resolved = states("a", "opened", "updated", "resolved")
    box.put(opened)
    await eventually(lambda: bool(bus.stream))
    box.put(updated)
    box.put(resolved)
    box.put(states("b", "opened", second=10)[0])
    bus.loses_answers = False
    await box.settled("n1", "gpu-0", 5.0)
    assert [(a.id, a.state) for a in bus.stream.values()] == [("a", "opened"), ("a", "resolved"), ("b", "opened")]
    running.cancel()


async def test_of_too_many_what_nobody_needs_goes_first(bus: FakeBus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "MAX_WAITING", 3)
    registry = CollectorRegistry()
    box = AlertOutbox(bus, registry)  # type: ignore[arg-type]
    for one in states("a", "opened", "resolved"):
        box.put(one)
    for number in range(1, 4):
        box.put(alert(id=f"c{number}", device=f"gpu-{number}"))
    box.put(alert(id="minor", device="gpu-8", severity="warning"))
    assert [key[1] for key in box.on_the_way] == ["gpu-1", "gpu-2", "gpu-3"]
    assert registry.get_sample_value("autopilot_alerts_dropped_total", {"reason": "queue full"}) == 2.0


async def test_an_alert_that_no_subject_can_carry_is_dropped_and_counted(bus: FakeBus) -> None:
    registry = CollectorRegistry()
    box = AlertOutbox(bus, registry)  # type: ignore[arg-type]
    box.put(alert(node="é" * 100, device="é" * 100))
    box.put(alert(id="fine"))
    running = asyncio.create_task(box.run())
    await box.settled("n1", "gpu-0", 5.0)
    assert [a.id for a in bus.stream.values()] == ["fine"]
    assert registry.get_sample_value("autopilot_alerts_dropped_total", {"reason": "name too long"}) == 1.0
    running.cancel()


def test_an_event_whose_alert_no_subject_could_carry_is_refused() -> None:
    check_event(event("xid", code=79))
    with pytest.raises(InvalidInputError, match="too long"):
        check_event(event("xid", code=79, node="é" * 100, device="é" * 100))


class TestIntake:
    def made(self) -> tuple[FrameReceiver, list[Any], CollectorRegistry]:
        seen: list[Any] = []

        async def check(frames: list[Any]) -> None:
            seen.extend(frames)

        registry = CollectorRegistry()
        return FrameReceiver(check, registry, PoisonRule(registry, Mock())), seen, registry

    async def test_frames_that_are_no_ones_or_too_much_are_counted_and_the_rest_is_looked_at(self) -> None:
        made, seen, registry = self.made()
        bomb = pack_frame(
            node="n1", start_us=0, period_s=1.0, devices=("d",), metrics=(), ticks=100_000, block=b"", sequence=0,
            epoch_us=0, simulated=frozenset(), schema_version=1,
        )  # fmt: skip
        long = frame(ticks=5_000)
        for body in (b"rubbish", bomb, encode(long), encode(frame(node="n2")), encode(frame())):
            await made.take(SimpleNamespace(subject=subjects.frames("n1"), data=body))  # type: ignore[arg-type]
        running = asyncio.create_task(made.run())
        await eventually(lambda: len(seen) == 1)
        assert seen[0].node == "n1"
        assert registry.get_sample_value("autopilot_frames_rejected_total") == 4.0
        running.cancel()

    async def test_a_frame_that_detection_fails_on_spoils_no_other(self) -> None:
        seen: list[str] = []

        async def check(frames: list[Any]) -> None:
            if any(one.node == "evil" for one in frames):
                raise RuntimeError("in detection")
            seen.extend(one.node for one in frames)

        registry = CollectorRegistry()
        made = FrameReceiver(check, registry, PoisonRule(registry, Mock()))
        nodes = ["n1", "n2", "evil", "n3", "n4", "n5"]
        for node in nodes:
            message = SimpleNamespace(subject=subjects.frames(node), data=encode(frame(node=node)))
            await made.take(message)  # type: ignore[arg-type]
        running = asyncio.create_task(made.run())
        await eventually(lambda: sorted(seen) == ["n1", "n2", "n3", "n4", "n5"])
        labels = {"consumer": "anomaly frames", "error": "RuntimeError"}
        assert registry.get_sample_value("autopilot_messages_poison_total", labels) == 1.0
        assert not running.done()
        running.cancel()

    async def test_what_waits_is_bounded_and_the_newest_stays(self, monkeypatch: pytest.MonkeyPatch) -> None:
        made, seen, registry = self.made()
        body = encode(frame())
        monkeypatch.setattr(intake_module, "MAX_BYTES", 10 * len(body))
        for number in range(100):
            message = SimpleNamespace(subject=subjects.frames("n1"), data=encode(frame(sequence=number % 100)))
            await made.take(message)  # type: ignore[arg-type]
        assert registry.get_sample_value("autopilot_frames_waiting_bytes") <= 10 * len(body)  # type: ignore[operator]
        running = asyncio.create_task(made.run())
        await eventually(lambda: bool(seen))
        assert seen[-1].sequence == 99
        assert np.isfinite(seen[-1].values).all()
        running.cancel()

"""Names, blocks and addresses are bounded where they come in."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import msgpack
import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from pydantic import BaseModel, ValidationError

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.errors import InvalidInputError, MalformedMessageError, SubjectError
from accelerator_autopilot.contracts.frames import decode, encode
from accelerator_autopilot.contracts.message_addressing import check_address
from accelerator_autopilot.contracts.messages.commands import PoolPolicy, ScaleCommand
from accelerator_autopilot.contracts.messages.jobs import JobBody, PoolStatus
from accelerator_autopilot.contracts.messages.telemetry import DeviceEvent, NodeInventory
from accelerator_autopilot.runtime.unreadable_value_metrics import UnreadableValues
from accelerator_autopilot.transport import unreadable_values
from accelerator_autopilot.transport.unreadable_values import parse_value
from tests.contract.examples import EXAMPLES
from tests.support.builders import T0, alert, device, event, frame, power_command

EMOJI = "\N{GRINNING FACE}"


@pytest.mark.parametrize("text", ["", "x" * 201, EMOJI * 51, "\ud800"])
def test_a_name_that_no_subject_can_carry_is_refused(text: str) -> None:
    with pytest.raises(SubjectError) as caught:
        subjects.token(text)
    assert isinstance(caught.value, InvalidInputError)
    assert isinstance(caught.value, ValueError)
    assert len(str(caught.value)) < 400


def test_a_whole_subject_is_bounded() -> None:
    assert len(subjects.event("x" * 200, "y" * 200)) < 1024
    assert len(subjects.frames(EMOJI * 50)) < 1024
    with pytest.raises(SubjectError):
        subjects.event(EMOJI * 50, EMOJI * 50)
    with pytest.raises(SubjectError):
        subjects.alert_key(EMOJI * 50, "gpu-0", EMOJI * 50)


def test_names_of_consumers_stay_short_and_differ() -> None:
    assert subjects.name_part("node-1") == "node-1"
    long = [subjects.name_part(name) for name in (EMOJI * 50, EMOJI * 49, "x" * 200)]
    assert len(set(long)) == 3
    assert max(map(len, long)) <= 100


def packed(**more: Any) -> bytes:
    body = msgpack.unpackb(encode(frame()))
    return bytes(msgpack.packb(body | more))


@pytest.mark.parametrize(
    "more",
    [
        {"ticks": 100_000, "metrics": [], "values": b""},
        {"devices": [], "values": b""},
        {"ticks": 100_000, "devices": ["a", "b"], "values": bytes(800_000)},
        {"devices": [EMOJI * 51]},
        {"devices": ["x" * 201]},
        {"devices": ["a\0"]},
        {"node": EMOJI * 51},
        {"metrics": ["x" * 201]},
        {"period_s": float("nan")},
        {"period_s": float("inf")},
        {"start_us": 2**63},
    ],
    ids=str,
)
def test_frames_are_bounded(more: dict[str, Any]) -> None:
    assert decode(packed()).node == "n1"
    with pytest.raises(MalformedMessageError):
        decode(packed(**more))


def test_infinite_readings_are_none() -> None:
    values = np.array([[[np.inf, 1.0]], [[-np.inf, np.nan]]], np.float32)
    made = replace(frame(metrics=("power_w", "temp_c"), ticks=2), values=values)
    back = decode(encode(made)).values
    assert np.isnan(back).tolist() == [[[True, False]], [[True, True]]]


def test_a_frame_speaks_for_the_node_of_its_subject_only() -> None:
    data = encode(frame(node="n 1"))
    assert decode(data, subjects.frames("n 1")).node == "n 1"
    with pytest.raises(MalformedMessageError, match="subject"):
        decode(data, subjects.frames("n2"))


@pytest.mark.parametrize(
    ("subject", "message", "fits"),
    [
        (subjects.event("n1", "gpu-0"), event("xid"), True),
        (subjects.event("n2", "gpu-0"), event("xid"), False),
        (subjects.event("n1", "gpu-1"), event("xid"), False),
        (subjects.alert("critical", "n1", "gpu-0"), alert(), True),
        (subjects.alert("info", "n1", "gpu-0"), alert(), False),
        (subjects.alert("critical", "n2", "gpu-0"), alert(), False),
        (subjects.power_command("n1", "gpu-0"), power_command(), True),
        (subjects.power_command("n1", "gpu-9"), power_command(), False),
        ("$KV.inventory.n1", NodeInventory(node="n1", at=T0, period_s=1, devices=[device()]), True),
        ("$KV.inventory.n2", NodeInventory(node="n1", at=T0, period_s=1, devices=[device()]), False),
        ("$KV.pools.default.n1", PoolStatus.model_validate(EXAMPLES["PoolStatus"]), True),
        ("$KV.pools.other.n1", PoolStatus.model_validate(EXAMPLES["PoolStatus"]), False),
        ("$KV.pools.default", PoolStatus.model_validate(EXAMPLES["PoolStatus"]), False),
        ("$KV.policy.fleet", power_command(), True),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_message_is_about_what_its_subject_says(subject: str, message: BaseModel, fits: bool) -> None:
    for form in (message, message.model_dump(mode="json")):
        if fits:
            check_address(subject, form)
        else:
            with pytest.raises(MalformedMessageError):
                check_address(subject, form)


@pytest.mark.parametrize(
    ("model", "more"),
    [
        (DeviceEvent, {"node": EMOJI * 51}),
        (DeviceEvent, {"node": "a\0b"}),
        (DeviceEvent, {"code": 2**40}),
        (DeviceEvent, {"at": datetime(9500, 1, 1, tzinfo=UTC)}),
        (DeviceEvent, {"at": datetime(1, 1, 1, tzinfo=UTC)}),
        (ScaleCommand, {"nodes": {"n1": 10**9}}),
        (ScaleCommand, {"nodes": {"n1": -1}}),
        (PoolStatus, {"desired": 10**9}),
        (PoolPolicy, {"ceiling": 10**9}),
        (JobBody, {"ttl_s": 1e300}),
    ],
)
def test_messages_are_bounded(model: type[BaseModel], more: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        model.model_validate(EXAMPLES[model.__name__] | more)


def test_a_text_for_people_is_cut_and_not_refused() -> None:
    made = event("xid", message="x" * 10_000 + "\0")
    assert made.message == "x" * 4000


@pytest.mark.parametrize("value", [b"", b"{", b"[]", b'{"node": "n1"}', b"\xff", None])
def test_an_unreadable_value_is_absent_and_counted(value: bytes | None) -> None:
    before = unreadable_values.seen["inventory"]
    assert parse_value("inventory", "n1", value, NodeInventory) is None
    registry = CollectorRegistry()
    registry.register(UnreadableValues())
    counted = registry.get_sample_value("autopilot_kv_unreadable_total", {"bucket": "inventory"})
    assert counted == before + 1

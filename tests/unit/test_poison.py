"""The rule for messages that cannot be handled, and the bounds that keep most of them out."""

from __future__ import annotations

import base64
import json
from types import SimpleNamespace
from typing import Any

import nats.errors
import pytest
from prometheus_client import CollectorRegistry
from pydantic import ValidationError

from accelerator_autopilot.contracts.errors import InvalidInputError, MalformedMessageError, UnavailableError
from accelerator_autopilot.contracts.messages.commands import CommandOutcome, PowerCommand
from accelerator_autopilot.contracts.messages.poison import MOST_BODY_BYTES, PoisonMessage
from accelerator_autopilot.runtime.poison_messages import ATTEMPTS, MAX_DELIVERIES, PoisonRule, backoff_s, may_pass
from tests.support.builders import power_command


class FakeStream:
    """A context that keeps what is published, or is away."""

    def __init__(self) -> None:
        self.kept: list[tuple[str, bytes]] = []
        self.away = False

    async def publish(self, subject: str, body: bytes, **_: Any) -> None:
        if self.away:
            raise nats.errors.TimeoutError
        self.kept.append((subject, body))


class FakeMessage:
    """A delivery of a stream, as nats-py gives it."""

    def __init__(self, subject: str = "telemetry.events.n1.gpu-0", data: bytes = b"{}", delivered: int = 1) -> None:
        self.subject, self.data, self.headers = subject, data, {"Nats-Msg-Id": "e1"}
        self.metadata: Any = SimpleNamespace(
            stream="EVENTS", consumer="c", num_delivered=delivered, sequence=SimpleNamespace(stream=7)
        )
        self.said: list[str] = []

    async def ack(self) -> None:
        self.said.append("ack")

    async def nak(self, delay: float) -> None:
        self.said.append(f"nak {delay}")


def make_rule() -> tuple[PoisonRule, FakeStream, CollectorRegistry]:
    registry, stream = CollectorRegistry(), FakeStream()
    return PoisonRule(registry, lambda: stream), stream, registry  # type: ignore[arg-type,return-value]


async def fail(rule: PoisonRule, message: FakeMessage, error: Exception) -> None:
    async with rule.guard(message, "c"):  # type: ignore[arg-type]
        raise error


@pytest.mark.parametrize("error", [ValueError("x"), TypeError("x"), KeyError("x"), InvalidInputError("f", 1, "r")])
async def test_a_message_that_fails_three_times_is_put_aside_with_its_error_and_acknowledged(error: Exception) -> None:
    rule, stream, registry = make_rule()
    messages = [FakeMessage(delivered=n + 1, data=b"\xff" * 100_000) for n in range(ATTEMPTS)]
    for message in messages:
        await fail(rule, message, error)
    assert [m.said for m in messages] == [[f"nak {backoff_s(1)}"], [f"nak {backoff_s(2)}"], ["ack"]]
    [(subject, body)] = stream.kept
    letter = PoisonMessage.model_validate_json(body)
    assert subject == "poison.EVENTS"
    assert (letter.subject, letter.sequence, letter.deliveries) == ("telemetry.events.n1.gpu-0", 7, 3)
    assert letter.headers == {"Nats-Msg-Id": "e1"}
    assert (letter.error, letter.body_bytes) == (type(error).__name__, 100_000)
    assert base64.b64decode(letter.body_base64) == b"\xff" * MOST_BODY_BYTES
    labels = {"consumer": "c", "error": type(error).__name__}
    assert registry.get_sample_value("autopilot_messages_poison_total", labels) == ATTEMPTS
    assert registry.get_sample_value("autopilot_messages_quarantined_total", {"consumer": "c"}) == 1


async def test_what_another_attempt_cannot_help_is_put_aside_at_once() -> None:
    rule, stream, _ = make_rule()
    message = FakeMessage()
    await fail(rule, message, MalformedMessageError("node", "n2", "must be the one of its subject"))
    assert message.said == ["ack"]
    assert len(stream.kept) == 1


@pytest.mark.parametrize("error", [UnavailableError("away"), nats.errors.TimeoutError(), OSError(), TimeoutError()])
async def test_what_the_bus_is_to_blame_for_is_tried_for_ever(error: Exception) -> None:
    rule, stream, registry = make_rule()
    for number in range(1, 3 * MAX_DELIVERIES):
        message = FakeMessage(delivered=number)
        await fail(rule, message, error)
        assert message.said == [f"nak {backoff_s(number)}"]
    assert stream.kept == []
    labels = {"consumer": "c", "error": type(error).__name__}
    assert registry.get_sample_value("autopilot_messages_poison_total", labels) is None


@pytest.mark.parametrize("error", [nats.errors.MaxPayloadError(), nats.errors.BadSubjectError(), UnicodeError()])
def test_what_the_message_is_to_blame_for_is_no_fault_of_the_bus(error: Exception) -> None:
    assert not may_pass(error)


async def test_failures_in_several_processes_end_too() -> None:
    rule, stream, _ = make_rule()
    message = FakeMessage(delivered=MAX_DELIVERIES)
    await fail(rule, message, RuntimeError("the first that this process sees"))
    assert message.said == ["ack"]
    assert len(stream.kept) == 1


async def test_a_message_that_cannot_be_put_aside_yet_comes_again() -> None:
    rule, stream, _ = make_rule()
    stream.away = True
    message = FakeMessage(delivered=5)
    for _ in range(ATTEMPTS):
        await fail(rule, message, ValueError("x"))
    assert all(said.startswith("nak") for said in message.said)
    stream.away = False
    await fail(rule, message, ValueError("x"))
    assert message.said[-1] == "ack"


async def test_a_message_of_no_stream_is_counted_and_dropped() -> None:
    rule, stream, registry = make_rule()
    message = FakeMessage()
    message.metadata = None
    await fail(rule, message, ValueError("x"))
    assert (message.said, stream.kept) == ([], [])
    assert registry.get_sample_value("autopilot_messages_poison_total", {"consumer": "c", "error": "ValueError"}) == 1


@pytest.mark.parametrize(
    ("body", "identity"),
    [
        (power_command().model_dump_json(), "c1"),
        (json.dumps({"id": "c9", "cap_w": -1}), "c9"),
        (json.dumps({"id": "x" * 5000}), "seq-7"),
        ("[1]", "seq-7"),
        ("no json", "seq-7"),
    ],
)
async def test_a_command_that_is_put_aside_has_an_outcome(body: str, identity: str) -> None:
    rule, stream, _ = make_rule()
    message: Any = FakeMessage("commands.power.n1.gpu-0", body.encode())
    try:
        PowerCommand.model_validate_json(body)
        error: Exception = ValueError("in the handler")
    except ValidationError as bad:
        error = bad
    assert await rule.judge(message, "agent-power-n1", error, hopeless=True, executor=True) == "done"
    outcome = CommandOutcome.model_validate_json(dict(stream.kept)[f"outcomes.{identity}"])
    assert (outcome.command_id, outcome.status, outcome.target) == (identity, "refused", "n1/gpu-0")
    assert outcome.detail.startswith(type(error).__name__)
    assert "in the handler" not in outcome.detail

"""A command that cannot be read is refused and put aside, whatever it calls itself."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from prometheus_client import CollectorRegistry

from accelerator_autopilot.contracts.errors import MalformedMessageError
from accelerator_autopilot.contracts.messages.commands import CommandOutcome
from accelerator_autopilot.runtime.poison_messages import PoisonRule
from tests.support.builders import power_command
from tests.support.fuzzing import fuzzed, near, near_json

COMMAND = power_command().model_dump(mode="json")
SUBJECT = f"commands.power.{COMMAND['node']}.{COMMAND['device']}"


async def judged(body: bytes) -> list[CommandOutcome]:
    """What an executor published about a command that it could not carry out; it must be done with it."""
    kept: list[CommandOutcome] = []

    async def publish(subject: str, data: bytes, **_: Any) -> None:
        if subject.startswith("outcomes."):
            kept.append(CommandOutcome.model_validate_json(data))

    metadata = SimpleNamespace(stream="COMMANDS", consumer="c", num_delivered=1, sequence=SimpleNamespace(stream=7))
    message: Any = SimpleNamespace(subject=SUBJECT, data=body, headers={"x": "\0"}, metadata=metadata)
    js: Any = SimpleNamespace(publish=publish)
    rule = PoisonRule(CollectorRegistry(), lambda: js)
    assert await rule.judge(message, "agent", MalformedMessageError("id", "x", "is wrong"), executor=True) == "done"
    return kept


@pytest.mark.parametrize("identity", ["", "\0", "a\0b", "x" * 300, "\N{GRINNING FACE}" * 200, 7, None, [], {}, 1e308])
async def test_a_command_of_any_id_is_refused_once(identity: object) -> None:
    [outcome] = await judged(json.dumps(COMMAND | {"id": identity}).encode())
    assert (outcome.command_id, outcome.status) == ("seq-7", "refused")


@fuzzed(60)
@given(near(json.dumps(COMMAND).encode()))
async def test_a_broken_command_is_refused(body: bytes) -> None:
    assert len(await judged(body)) == 1


@fuzzed(60)
@given(near_json(COMMAND))
async def test_a_command_of_odd_values_is_refused(command: Any) -> None:
    assert len(await judged(json.dumps(command).encode())) == 1

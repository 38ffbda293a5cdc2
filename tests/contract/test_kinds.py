"""Every built-in kind keeps the contract of kinds, and clients know all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from accelerator_autopilot.contracts.kinds.base import Payload, Result, examples
from accelerator_autopilot.inference.kinds import registry
from accelerator_autopilot.inference.kinds.contract_check import ContractBrokenError, check_kind
from accelerator_autopilot.inference.settings import KINDS, ModelSettings
from tests.contract.client_source import payload_models
from tests.support.sandbox import NEEDS_SANDBOX
from tests.support.tiny_models import save_tiny_causal, save_tiny_vision

SHUT_IN = {"analyze-code", "generate-tests"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=NEEDS_SANDBOX) if n in SHUT_IN else n for n in KINDS])
def test_a_kind_keeps_the_contract(name: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {}
    if name in {"generate", "chat"}:
        settings["generate_model"] = str(save_tiny_causal(tmp_path))
    if name == "classify-image":
        settings["image_model"] = str(save_tiny_vision(tmp_path))
    check_kind(registry()[name], models=ModelSettings(**settings))


def test_clients_and_workers_know_the_same_kinds() -> None:
    assert {model.kind_name: model for model in payload_models()} == {n: registry()[n].input for n in KINDS}


class Answer(Result):
    """An answer."""

    text: str


class Question(Payload[Answer]):
    """A question."""

    kind_name = "answer"
    result_model = Answer
    model_config = examples({"text": "why"})

    text: str


class AnswerKind:
    name = "answer"
    input: type[Any] = Question
    output: type[BaseModel] = Answer
    max_batch = 4

    def run(self, inputs: Any, context: Any) -> list[Any]:
        return [Answer(text=item.text) for item in inputs]


class Loose(Payload[Answer]):
    """A question."""

    model_config = {"extra": "ignore"} | examples({"text": "why"})
    kind_name = "answer"
    result_model = Answer


class Bare(Payload[Answer]):
    """A question."""

    kind_name = "answer"
    result_model = Answer


class OtherName(Question):
    """A question."""

    kind_name = "other"


def test_a_small_kind_keeps_the_contract() -> None:
    assert check_kind(AnswerKind()) == [Answer(text="why")]


@pytest.mark.parametrize(
    ("changed", "broken"),
    [
        ({"name": "Not So"}, "is not like-this"),
        ({"max_batch": 0}, "must be 1 at least"),
        ({"input": BaseModel}, "is no Payload"),
        ({"output": BaseModel}, "is no Result"),
        ({"input": Loose}, "takes unknown fields"),
        ({"input": Bare}, "has no examples"),
        ({"input": OtherName}, "names the kind 'other'"),
        ({"run": lambda inputs, _: []}, "gives 0 outputs for one input"),
        ({"run": lambda inputs, _: [Answer(text="x")]}, "gives 1 outputs for 3 inputs"),
        ({"run": lambda inputs, _: [ValueError("no")]}, "its example fails: no"),
        ({"run": lambda inputs, _: [Question(text="x")]}, "gives Question, not Answer"),
    ],
)
def test_what_breaks_the_contract_is_named(changed: dict[str, Any], broken: str) -> None:
    kind = AnswerKind()
    for name, value in changed.items():
        setattr(kind, name, value)
    with pytest.raises(ContractBrokenError, match=broken):
        check_kind(kind)

"""What every job kind must hold to, as one check: for the built-in kinds and, in their own tests, for plug-ins.

>>> def test_my_kind_keeps_the_contract():                              # doctest: +SKIP
...     check_kind(KIND)
"""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel, ValidationError

from accelerator_autopilot.contracts.kinds.base import Payload, Result
from accelerator_autopilot.inference.kinds.base import ContinuousKind, Kind, RunContext
from accelerator_autopilot.inference.settings import ModelSettings
from accelerator_autopilot.inference.worker.application.scratch_folders import ScratchFolders

NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
MAX_NAME = 100
RUN_S = 300.0


class ContractBrokenError(AssertionError):
    """A kind does not keep the contract; the message says which part of it."""


def check_kind(kind: Kind | ContinuousKind, *, models: ModelSettings | None = None) -> list[Any]:
    """Check a kind and run its examples; returns their results. Raises ContractBrokenError.

    `models` are the model settings that its examples need.
    """
    _check_names(kind)
    examples = _check_models(kind)
    results = [_run(kind, example, models or ModelSettings()) for example in examples]
    if isinstance(kind, Kind) and kind.max_batch > 1:
        _check_batch(kind, examples[0], models or ModelSettings())
    return results


def _check_names(kind: Kind | ContinuousKind) -> None:
    _expect(bool(NAME.fullmatch(kind.name)) and len(kind.name) <= MAX_NAME, f"name {kind.name!r} is not like-this")
    _expect(isinstance(kind, Kind) or callable(getattr(kind, "start", None)), "has neither `run` nor `start`")
    if isinstance(kind, Kind):
        _expect(kind.max_batch >= 1, f"max_batch is {kind.max_batch}, must be 1 at least")


def _check_models(kind: Kind | ContinuousKind) -> list[dict[str, Any]]:
    """Check the models of input and output; returns the examples."""
    _expect(issubclass(kind.input, Payload), f"its input {kind.input.__name__} is no Payload")
    _expect(issubclass(kind.output, Result), f"its output {kind.output.__name__} is no Result")
    payload: Any = kind.input
    _expect(payload.kind_name == kind.name, f"its input names the kind {payload.kind_name!r}")
    _expect(payload.result_model is kind.output, f"its input names the result {payload.result_model.__name__}")
    for model in (kind.input, kind.output):
        _expect(bool((model.__doc__ or "").strip()), f"{model.__name__} has no docstring")
        model.model_json_schema()
    schema = kind.input.model_json_schema()
    _expect(schema.get("additionalProperties") is False, f"{kind.input.__name__} takes unknown fields")
    examples = schema.get("examples") or []
    _expect(bool(examples), f"{kind.input.__name__} has no examples: model_config = examples({{...}})")
    for example in examples:
        item = kind.input.model_validate(example)
        again = kind.input.model_validate(item.model_dump(mode="json", by_alias=True, exclude_unset=True))
        _expect(again == item, f"the example {example} is not the same after JSON")
    try:
        kind.input.model_validate(examples[0] | {"no_such_field": 1})
    except ValidationError:
        return list(examples)
    raise ContractBrokenError(f"{kind.name}: an unknown field is accepted")


def _run(kind: Kind | ContinuousKind, example: dict[str, Any], models: ModelSettings) -> BaseModel:
    item = kind.input.model_validate(example)
    with ScratchFolders(None) as scratch:
        context = RunContext(models=models, scratch=scratch, attempts=[1])
        if isinstance(kind, Kind):
            outputs = kind.run([item], context)
            _expect(len(outputs) == 1, f"gives {len(outputs)} outputs for one input")
            output = outputs[0]
        else:
            output = kind.start(item, context).result(timeout=RUN_S)
    if isinstance(output, BaseException):
        raise ContractBrokenError(f"{kind.name}: its example fails: {output}") from output
    _expect(isinstance(output, kind.output), f"gives {type(output).__name__}, not {kind.output.__name__}")
    kind.output.model_validate_json(output.model_dump_json())
    return output


def _check_batch(kind: Kind, example: dict[str, Any], models: ModelSettings) -> None:
    """Check that a batch returns as many outputs as inputs."""
    size = min(3, kind.max_batch)
    items = [kind.input.model_validate(example) for _ in range(size)]
    with ScratchFolders(None) as scratch:
        outputs = kind.run(items, RunContext(models=models, scratch=scratch, attempts=[1] * size))
    _expect(len(outputs) == size, f"gives {len(outputs)} outputs for {size} inputs")


def _expect(holds: bool, broken: str) -> None:  # noqa: FBT001  a condition
    if not holds:
        raise ContractBrokenError(broken)

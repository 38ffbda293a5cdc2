"""Outputs of finished jobs as models."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from accelerator_autopilot.client.jobs import output_of
from accelerator_autopilot.contracts.errors import MalformedMessageError
from accelerator_autopilot.contracts.kinds.base import Result
from accelerator_autopilot.contracts.messages.jobs import JobResult


def parse_output(result: JobResult, model: type[Result] | None) -> Any:
    """The output as its model, or as plain JSON where none is known.

    Raises JobFailedError when there is no output, and MalformedMessageError when it is not what the model says.
    """
    output = output_of(result)
    if model is None:
        return output
    try:
        return model.model_validate(output)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise MalformedMessageError("output", place, f"is not a valid {model.__name__}: {first['msg']}") from error

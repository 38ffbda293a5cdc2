"""The base classes of all job kinds' inputs and results."""

from __future__ import annotations

from typing import Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict


class Result(BaseModel):
    """Base of a kind's result. Fields are only ever added; those that a newer worker adds are ignored."""


R = TypeVar("R", bound=Result)


class Input(BaseModel):
    """Base of a kind's input and of its parts: unknown fields are rejected."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)


class Payload(Input, Generic[R]):
    """The input of one job. `R` is the model of its result.

    A kind's payload defines `kind_name`, the name of the kind, and `result_model`, the class of `R`.

    >>> class WordCount(Payload[WordCountResult]):          # doctest: +SKIP
    ...     kind_name = "word-count"
    ...     result_model = WordCountResult
    ...     text: str
    """

    kind_name: ClassVar[str]
    result_model: ClassVar[type[Result]]


def examples(*payloads: dict[str, Any]) -> ConfigDict:
    """Return a model configuration with example payloads, which the documentation shows and the contract test runs."""
    return ConfigDict(json_schema_extra={"examples": list(payloads)})

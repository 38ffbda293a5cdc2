"""echo: return the text, optionally after a delay."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from accelerator_autopilot.contracts.kinds.base import Payload, Result, examples


class EchoResult(Result):
    """The same text."""

    text: str


class Echo(Payload[EchoResult]):
    """The text to return, how long to work on it, and a failure to simulate."""

    kind_name = "echo"
    result_model = EchoResult
    model_config = examples({"text": "hello"})

    text: str = ""
    work_s: float = Field(default=0.0, ge=0, le=600, description="seconds of work")
    fail: Literal["never", "first_attempt", "always", "permanently"] = "never"

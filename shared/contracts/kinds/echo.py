"""echo: gives its text back, after a while if asked to."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from accelerator_autopilot.contracts.kinds.base import Payload, Result, examples


class EchoResult(Result):
    """The text again."""

    text: str


class Echo(Payload[EchoResult]):
    """What to give back, how long to keep the device busy (seconds), and which failure to act out."""

    kind_name = "echo"
    result_model = EchoResult
    model_config = examples({"text": "hello"})

    text: str = ""
    work_s: float = Field(default=0.0, ge=0, le=600, description="seconds of work")
    fail: Literal["never", "first_attempt", "always", "permanently"] = "never"

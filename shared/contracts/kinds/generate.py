"""generate: a prompt to a text."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from accelerator_autopilot.contracts.kinds.base import Input, Payload, Result, examples


class GenerateResult(Result):
    """The text, and why it ended. While it runs, `partial` tells {"text": piece, "offset": characters before it}."""

    text: str
    finish_reason: Literal["stop", "length", "cancelled"]
    model: str
    prompt_tokens: int
    completion_tokens: int


class Sampling(Input):
    """Which model, how to choose tokens, and when to stop."""

    model: str | None = Field(default=None, max_length=500, description="one that is configured; the first by default")
    max_tokens: int = Field(default=256, ge=1, le=131_072)
    temperature: float = Field(default=0.0, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    stop: list[str] = Field(default=[], max_length=16)


class Generate(Sampling, Payload[GenerateResult]):
    """A prompt."""

    kind_name = "generate"
    result_model = GenerateResult
    model_config = examples({"prompt": "one two", "max_tokens": 4})

    prompt: str = Field(min_length=1, max_length=10_000_000)

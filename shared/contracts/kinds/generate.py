"""generate: continue a prompt."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from accelerator_autopilot.contracts.kinds.base import Input, Payload, Result, examples


class GenerateResult(Result):
    """The text, and why it ended. During the run, `partial` is {"text": piece, "offset": characters before it}."""

    text: str
    finish_reason: Literal["stop", "length", "cancelled"]
    model: str
    prompt_tokens: int
    completion_tokens: int


class Sampling(Input):
    """The model, how tokens are sampled, and when to stop."""

    model: str | None = Field(default=None, max_length=500, description="a configured model; the first one by default")
    max_tokens: int = Field(default=256, ge=1, le=131_072)
    temperature: float = Field(default=0.0, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    stop: list[str] = Field(default=[], max_length=16)


class Generate(Sampling, Payload[GenerateResult]):
    """A prompt to continue."""

    kind_name = "generate"
    result_model = GenerateResult
    model_config = examples({"prompt": "one two", "max_tokens": 4})

    prompt: str = Field(min_length=1, max_length=10_000_000)

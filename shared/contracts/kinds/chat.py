"""chat: generate the next message of a conversation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from accelerator_autopilot.contracts.kinds.base import Input, Payload, examples
from accelerator_autopilot.contracts.kinds.generate import GenerateResult, Sampling


class Turn(Input):
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str = Field(max_length=10_000_000)


class Chat(Sampling, Payload[GenerateResult]):
    """A conversation so far."""

    kind_name = "chat"
    result_model = GenerateResult
    model_config = examples({"messages": [{"role": "user", "content": "one two"}], "max_tokens": 4})

    messages: list[Turn] = Field(min_length=1, max_length=1000)

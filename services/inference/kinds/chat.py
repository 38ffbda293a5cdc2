"""chat: a conversation to its next turn, by the model's own chat template."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Literal

from pydantic import BaseModel, Field

from accelerator_autopilot.inference.kinds.base import Input, RunContext
from accelerator_autopilot.inference.kinds.generate import GenerateOutput, Sampling, begin
from accelerator_autopilot.inference.ports import Message


class Turn(Input):
    """Who said what."""

    role: Literal["system", "user", "assistant"]
    content: str = Field(max_length=10_000_000)


class ChatInput(Sampling):
    """The conversation so far."""

    messages: list[Turn] = Field(min_length=1, max_length=1000)


class Chat:
    """One turn a job."""

    name = "chat"
    input = ChatInput
    output = GenerateOutput

    def start(self, item: ChatInput, context: RunContext) -> Future[BaseModel]:
        """Begin the next turn."""
        return begin([Message(turn.role, turn.content) for turn in item.messages], item, context)


KIND = Chat()

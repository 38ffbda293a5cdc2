"""chat: a conversation to its next turn, by the model's own chat template."""

from __future__ import annotations

from concurrent.futures import Future

from pydantic import BaseModel

from accelerator_autopilot.contracts.kinds.chat import Chat
from accelerator_autopilot.contracts.kinds.generate import GenerateResult
from accelerator_autopilot.inference.kinds.base import RunContext
from accelerator_autopilot.inference.kinds.generate import begin
from accelerator_autopilot.inference.ports import ChatMessage


class ChatKind:
    """One turn a job."""

    name = "chat"
    input = Chat
    output = GenerateResult

    def start(self, item: Chat, context: RunContext) -> Future[BaseModel]:
        """Start the next turn."""
        return begin([ChatMessage(turn.role, turn.content) for turn in item.messages], item, context)


KIND = ChatKind()

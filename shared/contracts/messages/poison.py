"""What is kept of a message that no consumer could handle."""

from __future__ import annotations

from pydantic import Field

from accelerator_autopilot.contracts.messages.base import Count, Label, Message, Name, Text, Timestamp

MOST_BODY_BYTES = 64 * 1024


class PoisonMessage(Message):
    """A message that was put aside, why, and by whom; subject `poison.<stream>`."""

    id: Name
    consumer: Label
    stream: Name
    sequence: int = Field(ge=0, lt=2**63)
    subject: str = Field(max_length=4096)
    headers: dict[str, str] = {}
    body_base64: str = Field(default="", description="its first 64 KiB")
    body_bytes: Count = Field(default=0, description="its whole size")
    error: Label = Field(description="type of the exception")
    reason: Text = ""
    deliveries: Count = 1
    at: Timestamp

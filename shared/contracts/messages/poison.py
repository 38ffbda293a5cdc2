"""A message that no consumer could handle."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from accelerator_autopilot.contracts.messages.base import Count, Label, Name, OwnedMessage, Text, Timestamp

MOST_BODY_BYTES = 64 * 1024


class PoisonMessage(OwnedMessage):
    """A quarantined message, with the error and the consumer that failed; subject `poison.<stream>`."""

    ACTOR_FIELD: ClassVar[str] = "consumer"

    id: Name
    consumer: Label
    stream: Name
    sequence: int = Field(ge=0, lt=2**63)
    subject: str = Field(max_length=4096)
    headers: dict[str, str] = {}
    body_base64: str = Field(default="", description="the first 64 KiB of the body")
    body_bytes: Count = Field(default=0, description="the full size of the body")
    error: Label = Field(description="type of the exception")
    reason: Text = ""
    deliveries: Count = 1
    at: Timestamp

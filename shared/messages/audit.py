"""Who did what."""

from __future__ import annotations

from shared.messages.base import Message, Name, Timestamp


class AuditRecord(Message):
    """One action of a person or service."""

    id: Name
    actor: Name
    action: Name
    target: str = ""
    detail: dict[str, str] = {}
    at: Timestamp

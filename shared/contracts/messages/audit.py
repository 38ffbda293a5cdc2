"""Audit records."""

from __future__ import annotations

from accelerator_autopilot.contracts.messages.base import Label, Message, Name, Text, Timestamp


class AuditRecord(Message):
    """One action of a person or service."""

    id: Name
    actor: Name
    action: Name
    target: Label = ""
    detail: dict[Label, Text] = {}
    at: Timestamp

"""Audit records."""

from __future__ import annotations

from accelerator_autopilot.contracts.messages.base import Label, Name, OwnedMessage, Text, Timestamp


class AuditRecord(OwnedMessage):
    """One action of a person or service."""

    id: Name
    actor: Name
    action: Name
    target: Label = ""
    detail: dict[Label, Text] = {}
    at: Timestamp

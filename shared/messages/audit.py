"""Who did what, and who wants to be told."""

from __future__ import annotations

from pydantic import AnyHttpUrl, Field

from shared.messages.base import Message, Name, Timestamp


class AuditRecord(Message):
    """One action of a person or service."""

    id: Name
    actor: Name
    action: Name
    target: str = ""
    detail: dict[str, str] = {}
    at: Timestamp


class Subscription(Message):
    """A webhook receiver and what it wants; KV `subscriptions`, key = id."""

    id: Name
    url: AnyHttpUrl
    secret: str = Field(description="Standard Webhooks secret, whsec_…", min_length=10, repr=False)
    severities: list[str] = []
    kinds: list[str] = []
    nodes: list[str] = []
    created_at: Timestamp
    active: bool = True

"""Ports of the notifier."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from accelerator_autopilot.contracts.messages.notifications import Subscription
from accelerator_autopilot.notifier.domain.message_formats import Body
from accelerator_autopilot.notifier.domain.subscription_ledger import LedgerEntry, StreamPosition


class WebhookSender(Protocol):
    """Posts to receivers."""

    async def post(self, subscription: Subscription, message_id: str, at: datetime, body: Body) -> int:
        """Post, and return the status. Raises UnavailableError for anything but a 2xx, and RefusedTargetError."""


class LedgerStore(Protocol):
    """Persists ledgers. Every method raises UnavailableError while the store is unreachable."""

    async def load(self, subscription_id: str) -> dict[str, LedgerEntry]:
        """Return the entries of a subscription by alert id; unreadable ones are left out."""

    async def put(self, subscription_id: str, entry: LedgerEntry) -> None:
        """Store an entry."""

    async def place(self, subscription_id: str) -> StreamPosition | None:
        """Return a subscription's position in the stream; None where unknown."""

    async def put_place(self, subscription_id: str, place: StreamPosition) -> None:
        """Store a subscription's position in the stream."""

    async def remove(self, subscription_id: str, alert_id: str = "") -> None:
        """Remove an alert, or everything of a subscription."""

"""Alerts, and webhook subscriptions to them."""

from __future__ import annotations

import base64
import secrets
from collections.abc import AsyncIterator

from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.errors import KeyNotFoundError
from pydantic import ValidationError

from shared import subjects
from shared.client.reading import bucket_items, last_messages
from shared.clock import utc_now
from shared.errors import InvalidInputError, NotFoundError
from shared.ids import new_id
from shared.messages.alerts import Alert
from shared.messages.audit import AuditRecord, Subscription


class Alerts:
    """Read alerts, follow them, and have them delivered."""

    def __init__(self, nc: Client, js: JetStreamContext, actor: str) -> None:
        self._nc, self._js, self._actor = nc, js, actor

    async def open(self) -> list[Alert]:
        """Alerts that are open now, oldest first."""
        return sorted((await bucket_items(self._js, "open_alerts", Alert)).values(), key=lambda a: a.opened_at)

    async def history(self, limit: int = 50) -> list[Alert]:
        """The newest changes of alerts, oldest first."""
        return await last_messages(self._js, "ALERTS", subjects.ALERTS, Alert, limit=limit)

    async def follow(self) -> AsyncIterator[Alert]:
        """Alerts as they change."""
        subscription = await self._nc.subscribe(subjects.ALERTS)
        try:
            async for message in subscription.messages:
                try:
                    yield Alert.model_validate_json(message.data)
                except ValidationError:
                    continue
        finally:
            await subscription.unsubscribe()

    async def subscribe(
        self,
        url: str,
        *,
        severities: list[str] | None = None,
        kinds: list[str] | None = None,
        nodes: list[str] | None = None,
    ) -> Subscription:
        """Have alerts posted to a URL; empty filters take all. Raises InvalidInputError for a bad URL."""
        secret = "whsec_" + base64.b64encode(secrets.token_bytes(24)).decode()
        try:
            subscription = Subscription.model_validate(
                {
                    "id": new_id()[:12],
                    "url": url,
                    "secret": secret,
                    "severities": severities or [],
                    "kinds": kinds or [],
                    "nodes": nodes or [],
                    "created_at": utc_now(),
                }
            )
        except ValidationError as error:
            first = error.errors()[0]
            raise InvalidInputError(str(first["loc"][0]), url, first["msg"]) from error
        kv = await self._js.key_value("subscriptions")
        await kv.put(subscription.id, subscription.model_dump_json().encode())
        await self._audit("subscription.created", subscription.id)
        return subscription

    async def subscriptions(self) -> list[Subscription]:
        """All subscriptions."""
        return list((await bucket_items(self._js, "subscriptions", Subscription)).values())

    async def unsubscribe(self, subscription_id: str) -> None:
        """Remove a subscription. Raises NotFoundError."""
        kv = await self._js.key_value("subscriptions")
        try:
            await kv.get(subscription_id)
        except KeyNotFoundError:
            raise NotFoundError(f"subscription {subscription_id} does not exist") from None
        await kv.delete(subscription_id)
        await self._audit("subscription.deleted", subscription_id)

    async def _audit(self, action: str, target: str) -> None:
        record = AuditRecord(id=new_id(), actor=self._actor, action=action, target=target, at=utc_now())
        await self._js.publish(
            subjects.audit(self._actor), record.model_dump_json().encode(), headers={"Nats-Msg-Id": record.id}
        )

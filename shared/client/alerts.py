"""Alerts, and webhook subscriptions to them."""

from __future__ import annotations

import base64
import secrets
from collections.abc import AsyncGenerator, Callable
from datetime import datetime, timedelta
from typing import TypeVar

import nats.errors
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.errors import KeyNotFoundError
from nats.js.kv import KeyValue
from pydantic import ValidationError

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.errors import (
    ConflictError,
    InvalidInputError,
    MalformedMessageError,
    NotFoundError,
    UnavailableError,
)
from accelerator_autopilot.contracts.failure_risk import Risk, risks
from accelerator_autopilot.contracts.ids import new_id
from accelerator_autopilot.contracts.message_addressing import check_address
from accelerator_autopilot.contracts.messages.alerts import Alert
from accelerator_autopilot.contracts.messages.audit import AuditRecord
from accelerator_autopilot.contracts.messages.base import Message
from accelerator_autopilot.contracts.messages.notifications import (
    Acknowledgement,
    DeliveryReply,
    DeliveryRequest,
    Silence,
    Subscription,
)
from accelerator_autopilot.contracts.projects import DEFAULT_PROJECT
from accelerator_autopilot.transport import audit_records
from accelerator_autopilot.transport.clock import utc_now
from accelerator_autopilot.transport.direct_reads import bucket_items, last_messages

M = TypeVar("M", bound=Message)
DELIVER_S = 15.0
RISK_ALERTS = 5_000
# Each subscription is a consumer with its own requests, and each silence is compared with every alert.
MAX_SUBSCRIPTIONS, MAX_SILENCES = 1_000, 1_000
DELETE_AFTER = timedelta(days=30)


class Alerts:
    """Read alerts, follow them, and manage their deliveries."""

    def __init__(self, nc: Client, js: JetStreamContext, actor: str, project: str = DEFAULT_PROJECT) -> None:
        self._nc, self._js, self._actor, self._project = nc, js, actor, project

    async def open(self) -> list[Alert]:
        """Return the open alerts, oldest first."""
        return sorted((await bucket_items(self._js, "open_alerts", Alert)).values(), key=lambda a: a.opened_at)

    async def history(self, limit: int = 50) -> list[Alert]:
        """Return the newest changes of alerts, oldest first."""
        return await last_messages(self._js, "ALERTS", subjects.ALERTS, Alert, limit=limit)

    async def risks(self) -> list[Risk]:
        """Return devices by their risk, from the alerts of the last months."""
        return risks(await self.history(RISK_ALERTS), utc_now())

    async def follow(self, unreadable: Callable[[Exception], None] | None = None) -> AsyncGenerator[Alert, None]:
        """Yield alerts as they change; `unreadable` is called for what is left out."""
        subscription = await self._nc.subscribe(subjects.ALERTS)
        try:
            async for message in subscription.messages:
                try:
                    alert = Alert.model_validate_json(message.data)
                    check_address(message.subject, alert)
                except (ValidationError, MalformedMessageError) as error:
                    if unreadable is not None:
                        unreadable(error)
                    continue
                yield alert
        finally:
            await subscription.unsubscribe()

    async def subscribe(self, url: str, **more: object) -> Subscription:
        """Post alerts to a URL; `more` are fields of Subscription, empty filters match all.

        Raises InvalidInputError that names the field, ConflictError when there are too many.
        """
        secret = "whsec_" + base64.b64encode(secrets.token_bytes(24)).decode()
        made = {"id": new_id()[:12], "url": url, "secret": secret, "created_at": utc_now()} | self._owner()
        subscription = _checked(Subscription, made | {name: value for name, value in more.items() if value is not None})
        if len(await self.subscriptions()) >= MAX_SUBSCRIPTIONS:
            raise ConflictError(f"there are {MAX_SUBSCRIPTIONS} subscriptions, the maximum: remove some")
        await self._audit("subscription.created", subscription.id)
        await self._put("subscriptions", subscription.id, subscription)
        return subscription

    async def deliver(self, subscription_id: str, alert: Alert | None = None) -> DeliveryReply:
        """Send an alert, or a test alert, to a subscription now.

        Raises NotFoundError for an unknown subscription, and UnavailableError without a notifier.
        """
        request = _checked(DeliveryRequest, {"subscription_id": subscription_id, "alert": alert} | self._owner())
        await self._known("subscriptions", subscription_id, "subscription")
        if alert is None:
            await self._audit("subscription.tested", subscription_id)
        else:
            await self._audit("subscription.delivered", subscription_id, alert=alert.id)
        try:
            reply = await self._nc.request(subjects.DELIVER, request.model_dump_json().encode(), timeout=DELIVER_S)
        except (nats.errors.Error, TimeoutError) as error:
            raise UnavailableError(f"the notifier does not respond: {type(error).__name__}") from error
        return DeliveryReply.model_validate_json(reply.data)

    async def deliveries(self, limit: int = 50) -> list[AuditRecord]:
        """Return the newest deliveries and their outcomes, oldest first."""
        return await last_messages(self._js, "AUDIT", subjects.audit("notifier"), AuditRecord, limit=limit)

    async def acknowledge(self, alert_id: str, note: str = "") -> Acknowledgement:
        """Acknowledge an open alert: it is not escalated further. Raises NotFoundError."""
        if not alert_id or alert_id not in {a.id for a in await self.open()}:
            raise NotFoundError(f"alert {alert_id} is not open")
        made = {"alert_id": alert_id, "by": self._actor, "at": utc_now(), "note": note}
        taken = _checked(Acknowledgement, made | self._owner())
        await self._audit("alert.acknowledged", alert_id)
        await self._put("acknowledged", subjects.token(alert_id), taken)
        return taken

    async def acknowledgements(self) -> dict[str, Acknowledgement]:
        """Return acknowledgements by alert id."""
        taken = await bucket_items(self._js, "acknowledged", Acknowledgement)
        return {a.alert_id: a for a in taken.values()}

    async def silence(self, ends_at: datetime, *, starts_at: datetime | None = None, **more: object) -> Silence:
        """Suppress notifications of matching alerts until a time, or in a planned window.

        Raises InvalidInputError, and ConflictError when there are too many.
        """
        made = {"id": new_id()[:12], "starts_at": starts_at or utc_now(), "ends_at": ends_at, "created_by": self._actor}
        made |= self._owner()
        silence = _checked(Silence, made | {name: value for name, value in more.items() if value is not None})
        await self._make_room_for_a_silence()
        await self._audit("silence.created", silence.id)
        await self._put("silences", silence.id, silence)
        return silence

    async def _make_room_for_a_silence(self) -> None:
        """Delete silences that ended long ago; nothing else would."""
        now, kv = utc_now(), await self._js.key_value("silences")
        found = await bucket_items(self._js, "silences", Silence)
        for key in [key for key, known in found.items() if now - known.ends_at > DELETE_AFTER]:
            await kv.delete(key)
        if sum(known.ends_at > now for known in found.values()) >= MAX_SILENCES:
            raise ConflictError(f"there are {MAX_SILENCES} silences, the maximum: end some, or use patterns")

    async def silences(self) -> list[Silence]:
        """Return silences that have not ended, the first to end first."""
        found = (await bucket_items(self._js, "silences", Silence)).values()
        return sorted((s for s in found if s.ends_at > utc_now()), key=lambda s: s.ends_at)

    async def unsilence(self, silence_id: str) -> None:
        """End a silence. Raises NotFoundError."""
        await self._remove("silences", silence_id, "silence")

    async def subscriptions(self) -> list[Subscription]:
        """Return all subscriptions."""
        return list((await bucket_items(self._js, "subscriptions", Subscription)).values())

    async def unsubscribe(self, subscription_id: str) -> None:
        """Remove a subscription. Raises NotFoundError."""
        await self._remove("subscriptions", subscription_id, "subscription")

    async def _put(self, bucket: str, key: str, value: Message) -> None:
        await (await self._js.key_value(bucket)).put(key, value.model_dump_json().encode())

    async def _remove(self, bucket: str, key: str, kind: str) -> None:
        kv = await self._known(bucket, key, kind)
        await self._audit(f"{kind}.deleted", key)
        await kv.delete(key)

    async def _known(self, bucket: str, key: str, kind: str) -> KeyValue:
        """Return the bucket if it has the key. Raises NotFoundError."""
        kv = await self._js.key_value(bucket)
        try:
            # Our own ids are plain; another would be a pattern, or no valid key.
            if not key or subjects.token(key) != key:
                raise NotFoundError(f"{kind} {key!r} does not exist")
            await kv.get(key)
        except (KeyNotFoundError, InvalidInputError):
            raise NotFoundError(f"{kind} {key[:200]!r} does not exist") from None
        return kv

    def _owner(self) -> dict[str, object]:
        return {"project": self._project, "actor": self._actor}

    async def _audit(self, action: str, target: str, **detail: str) -> None:
        await audit_records.write(self._js, audit_records.record(self._actor, action, target, self._project, **detail))


def _checked(model: type[M], fields: dict[str, object]) -> M:
    """Create a message from these fields. Raises InvalidInputError that names the first invalid field."""
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else model.__name__
        raise InvalidInputError(name, fields.get(name), first["msg"]) from error

"""Where the ledgers outlive a restart: KV `notices`, one key a subscription and alert."""

from __future__ import annotations

import asyncio
import logging

import nats.errors
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError
from pydantic import ValidationError

from services.notifier.domain.ledger import Entry
from shared import subjects
from shared.errors import UnavailableError

log = logging.getLogger(__name__)

BUCKET = "notices"
AT_ONCE = 64


class NoticeStore:
    """Every method raises UnavailableError while the broker is away."""

    def __init__(self, js: JetStreamContext) -> None:
        self._js = js

    async def load(self, subscription_id: str) -> dict[str, Entry]:
        """What is kept of a subscription; what cannot be read is left out."""
        wildcard = f"$KV.{BUCKET}.{subjects.token(subscription_id)}.>"
        try:
            found = (await self._js.stream_info(f"KV_{BUCKET}", subjects_filter=wildcard)).state.subjects or {}
            keys = list(found)
            entries: dict[str, Entry] = {}
            for start in range(0, len(keys), AT_ONCE):
                read = await asyncio.gather(*(self._read(key) for key in keys[start : start + AT_ONCE]))
                entries |= {entry.alert.id: entry for entry in read if entry is not None}
        except (nats.errors.Error, OSError) as error:
            raise UnavailableError(f"notices not read: {type(error).__name__}") from error
        return entries

    async def put(self, subscription_id: str, entry: Entry) -> None:
        """Keep an entry."""
        try:
            await self._js.publish(_subject(subscription_id, entry.alert.id), entry.model_dump_json().encode())
        except (nats.errors.Error, OSError) as error:
            raise UnavailableError(f"notice not kept: {type(error).__name__}") from error

    async def remove(self, subscription_id: str, alert_id: str = "") -> None:
        """Forget an alert, or all of a subscription, without a trace: markers of what is gone would add up."""
        subject = _subject(subscription_id, alert_id)
        try:
            await self._js.purge_stream(f"KV_{BUCKET}", subject=subject)
        except (nats.errors.Error, OSError) as error:
            raise UnavailableError(f"notice not removed: {type(error).__name__}") from error

    async def _read(self, key: str) -> Entry | None:
        try:
            message = await self._js.get_last_msg(f"KV_{BUCKET}", key)
            return Entry.model_validate_json(message.data or b"")
        except NotFoundError:
            return None
        except ValidationError:
            log.warning("notice not readable, left out", extra={"key": key})
            return None


def _subject(subscription_id: str, alert_id: str) -> str:
    base = f"$KV.{BUCKET}.{subjects.token(subscription_id)}"
    return f"{base}.{subjects.token(alert_id)}" if alert_id else f"{base}.>"

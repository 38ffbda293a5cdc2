"""Persist delivery ledgers in the KV bucket `notices`: one key per subscription for its position, one per alert."""

from __future__ import annotations

import asyncio
import logging

import nats.errors
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError
from pydantic import ValidationError

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.errors import UnavailableError
from accelerator_autopilot.contracts.messages.alerts import Alert
from accelerator_autopilot.notifier.domain.subscription_ledger import LedgerEntry, StreamPosition

log = logging.getLogger(__name__)

BUCKET = "notices"
AT_ONCE = 64
# The server's limit is 1 MiB per message; a larger entry keeps only part of the evidence.
MAX_BYTES, EVIDENCE_KEPT = 768 * 1024, 3


class NatsLedgerStore:
    """Every method raises UnavailableError while the broker is unreachable."""

    def __init__(self, js: JetStreamContext) -> None:
        self._js = js

    async def load(self, subscription_id: str) -> dict[str, LedgerEntry]:
        """Return the stored entries of a subscription; unreadable ones are left out."""
        wildcard = f"$KV.{BUCKET}.{subjects.token(subscription_id)}.>"
        try:
            found = (await self._js.stream_info(f"KV_{BUCKET}", subjects_filter=wildcard)).state.subjects or {}
            keys = list(found)
            entries: dict[str, LedgerEntry] = {}
            for start in range(0, len(keys), AT_ONCE):
                read = await asyncio.gather(*(self._read(key) for key in keys[start : start + AT_ONCE]))
                entries |= {entry.alert.id: entry for entry in read if entry is not None}
        except (nats.errors.Error, OSError) as error:
            raise UnavailableError(f"the delivery ledger could not be read: {type(error).__name__}") from error
        return entries

    async def put(self, subscription_id: str, entry: LedgerEntry) -> None:
        """Store an entry."""
        body = entry.model_dump_json().encode()
        if len(body) > MAX_BYTES:
            body = _shorter(entry).model_dump_json().encode()
        await self._write(_subject(subscription_id, entry.alert.id), body)

    async def place(self, subscription_id: str) -> StreamPosition | None:
        """Return a subscription's position in the stream; None where unknown."""
        try:
            message = await self._js.get_last_msg(f"KV_{BUCKET}", _place(subscription_id))
            return StreamPosition.model_validate_json(message.data or b"")
        except (NotFoundError, ValidationError):
            return None
        except (nats.errors.Error, OSError) as error:
            raise UnavailableError(f"the stream position could not be read: {type(error).__name__}") from error

    async def put_place(self, subscription_id: str, place: StreamPosition) -> None:
        """Store a subscription's position."""
        await self._write(_place(subscription_id), place.model_dump_json().encode())

    async def remove(self, subscription_id: str, alert_id: str = "") -> None:
        """Remove an alert, or all of a subscription, including tombstones, which would accumulate."""
        gone = [_subject(subscription_id, alert_id)] + ([] if alert_id else [_place(subscription_id)])
        try:
            for subject in gone:
                await self._js.purge_stream(f"KV_{BUCKET}", subject=subject)
        except (nats.errors.Error, OSError) as error:
            raise UnavailableError(f"the ledger entry could not be removed: {type(error).__name__}") from error

    async def _write(self, subject: str, body: bytes) -> None:
        try:
            await self._js.publish(subject, body)
        except (nats.errors.Error, OSError) as error:
            raise UnavailableError(f"the ledger entry could not be written: {type(error).__name__}") from error

    async def _read(self, key: str) -> LedgerEntry | None:
        try:
            message = await self._js.get_last_msg(f"KV_{BUCKET}", key)
            return LedgerEntry.model_validate_json(message.data or b"")
        except NotFoundError:
            return None
        except ValidationError:
            log.warning("ignoring unreadable ledger entry", extra={"key": key})
            return None


def _shorter(entry: LedgerEntry) -> LedgerEntry:
    notices = [n.model_copy(update={"alert": _brief(n.alert)}) for n in entry.waiting]
    return entry.model_copy(update={"alert": _brief(entry.alert), "waiting": notices})


def _brief(alert: Alert) -> Alert:
    return alert.model_copy(update={"evidence": alert.evidence[:EVIDENCE_KEPT]})


def _place(subscription_id: str) -> str:
    # One token fewer than an alert's key, so that reading all alerts does not include it.
    return f"$KV.{BUCKET}.{subjects.token(subscription_id)}"


def _subject(subscription_id: str, alert_id: str) -> str:
    base = f"$KV.{BUCKET}.{subjects.token(subscription_id)}"
    return f"{base}.{subjects.token(alert_id)}" if alert_id else f"{base}.>"

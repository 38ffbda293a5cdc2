"""Where the ledgers outlive a restart: KV `notices`, a key a subscription for its place, and one each of its alerts."""

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
# The server takes messages up to 1 MiB; of a larger entry only a part of the evidence is kept.
MOST_BYTES, EVIDENCE_KEPT = 768 * 1024, 3


class NatsLedgerStore:
    """Every method raises UnavailableError while the broker is away."""

    def __init__(self, js: JetStreamContext) -> None:
        self._js = js

    async def load(self, subscription_id: str) -> dict[str, LedgerEntry]:
        """What is kept of a subscription; what cannot be read is left out."""
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
        """Keep an entry."""
        body = entry.model_dump_json().encode()
        if len(body) > MOST_BYTES:
            body = _shorter(entry).model_dump_json().encode()
        await self._write(_subject(subscription_id, entry.alert.id), body)

    async def place(self, subscription_id: str) -> StreamPosition | None:
        """How far a subscription has come in the stream; None where nothing is known."""
        try:
            message = await self._js.get_last_msg(f"KV_{BUCKET}", _place(subscription_id))
            return StreamPosition.model_validate_json(message.data or b"")
        except (NotFoundError, ValidationError):
            return None
        except (nats.errors.Error, OSError) as error:
            raise UnavailableError(f"the stream position could not be read: {type(error).__name__}") from error

    async def put_place(self, subscription_id: str, place: StreamPosition) -> None:
        """Keep how far it has come."""
        await self._write(_place(subscription_id), place.model_dump_json().encode())

    async def remove(self, subscription_id: str, alert_id: str = "") -> None:
        """Forget an alert, or all of a subscription, without a trace: markers of what is gone would add up."""
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
            log.warning("notice not readable, left out", extra={"key": key})
            return None


def _shorter(entry: LedgerEntry) -> LedgerEntry:
    notices = [n.model_copy(update={"alert": _brief(n.alert)}) for n in entry.waiting]
    return entry.model_copy(update={"alert": _brief(entry.alert), "waiting": notices})


def _brief(alert: Alert) -> Alert:
    return alert.model_copy(update={"evidence": alert.evidence[:EVIDENCE_KEPT]})


def _place(subscription_id: str) -> str:
    # One token fewer than an alert's key, so that reading all alerts does not read it.
    return f"$KV.{BUCKET}.{subjects.token(subscription_id)}"


def _subject(subscription_id: str, alert_id: str) -> str:
    base = f"$KV.{BUCKET}.{subjects.token(subscription_id)}"
    return f"{base}.{subjects.token(alert_id)}" if alert_id else f"{base}.>"

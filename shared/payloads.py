"""Payloads too large for a message: JSON in the object store, gone when their time to live ends.

An object's name begins with the second at which it ends, so that a sweep needs no second record.
"""

from __future__ import annotations

import asyncio
import json
from datetime import datetime
from typing import Any

from nats.js import JetStreamContext
from nats.js.errors import NotFoundError as JetStreamNotFoundError
from nats.js.errors import ObjectNotFoundError

from shared.errors import NotFoundError
from shared.objects import read_object, write_object

# Of a job's input: while it is read and parsed, its worker does nothing else.
MOST_PAYLOAD_BYTES = 256 * 2**20
# nats-py's listing of objects never ends when what it waits for is lost on the way.
SWEEP_S = 120.0


async def store_payload(js: JetStreamContext, name: str, payload: dict[str, Any], expires_at: datetime) -> str:
    """Store a JSON object until a time, and return the reference.

    Raises UnavailableError when it was not confirmed, BusyError when there is no room.
    """
    reference = f"{int(expires_at.timestamp())}-{name}"
    await write_object(js, "payloads", reference, json.dumps(payload).encode())
    return reference


async def load_payload(js: JetStreamContext, reference: str, most_bytes: int | None = None) -> dict[str, Any]:
    """Load a stored object.

    Raises NotFoundError when it is gone, UnavailableError when it could not be read whole this time, and
    InvalidInputError for one of more than `most_bytes`.
    """
    try:
        content = await read_object(js, "payloads", reference, most_bytes)
    except NotFoundError as error:
        raise NotFoundError(f"payload {reference} is gone: its time to live has ended, or it was deleted") from error
    loaded = json.loads(content or b"{}")
    return loaded if isinstance(loaded, dict) else {}


async def drop_payload(js: JetStreamContext, reference: str) -> None:
    """Delete a stored object; one that is gone already is fine."""
    store = await js.object_store("payloads")
    try:
        await store.delete(reference)
    except (ObjectNotFoundError, JetStreamNotFoundError):
        return


async def sweep_payloads(js: JetStreamContext, now: datetime) -> int:
    """Delete what has expired; returns how many objects. Raises TimeoutError when that takes more than SWEEP_S."""
    async with asyncio.timeout(SWEEP_S):
        return await _sweep(js, now)


async def _sweep(js: JetStreamContext, now: datetime) -> int:
    store = await js.object_store("payloads")
    try:
        entries = await store.list(ignore_deletes=True)
    except JetStreamNotFoundError:
        return 0
    expired = [e.name for e in entries if e.name and _expires_s(e.name) <= now.timestamp()]
    for name in expired:
        await drop_payload(js, name)
    return len(expired)


def _expires_s(name: str) -> float:
    seconds = name.split("-", 1)[0]
    return float(seconds) if seconds.isdigit() else float("inf")

"""Payloads too large for a message: JSON in the object store, gone when their time to live ends.

An object's name begins with the second at which it ends, so that a sweep needs no second record.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from nats.js import JetStreamContext
from nats.js.errors import NotFoundError as JetStreamNotFoundError
from nats.js.errors import ObjectNotFoundError

from shared.errors import NotFoundError
from shared.objects import read_object, write_object


async def store_payload(js: JetStreamContext, name: str, payload: dict[str, Any], expires_at: datetime) -> str:
    """Store a JSON object until a time, and return the reference.

    Raises UnavailableError when it was not confirmed, BusyError when there is no room.
    """
    reference = f"{int(expires_at.timestamp())}-{name}"
    await write_object(js, "payloads", reference, json.dumps(payload).encode())
    return reference


async def load_payload(js: JetStreamContext, reference: str) -> dict[str, Any]:
    """Load a stored object.

    Raises NotFoundError when it is gone, and UnavailableError when it could not be read whole this time.
    """
    try:
        content = await read_object(js, "payloads", reference)
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
    """Delete what has expired; returns how many objects."""
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

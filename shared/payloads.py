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

FETCH_TIMEOUT_S = 30.0


async def store_payload(js: JetStreamContext, name: str, payload: dict[str, Any], expires_at: datetime) -> str:
    """Store a JSON object until a time, and return the reference."""
    store = await js.object_store("payloads")
    reference = f"{int(expires_at.timestamp())}-{name}"
    await store.put(reference, json.dumps(payload).encode())
    return reference


async def load_payload(js: JetStreamContext, reference: str) -> dict[str, Any]:
    """Load a stored object. Raises NotFoundError when it expired."""
    store = await js.object_store("payloads")
    try:
        # The client's get never returns when chunks are gone.
        async with asyncio.timeout(FETCH_TIMEOUT_S):
            stored = await store.get(reference)
    except (ObjectNotFoundError, TimeoutError) as error:
        raise NotFoundError(f"payload {reference} is gone: its time to live may have ended") from error
    loaded = json.loads(stored.data or b"{}")
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

"""Payloads too large for a message: JSON in the object store, dropped when its time to live ends."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from nats.js import JetStreamContext
from nats.js.errors import ObjectNotFoundError

from shared.errors import NotFoundError

FETCH_TIMEOUT_S = 30.0


async def store_payload(js: JetStreamContext, name: str, payload: dict[str, Any]) -> str:
    """Store a JSON object under a name and return the reference."""
    store = await js.object_store("payloads")
    await store.put(name, json.dumps(payload).encode())
    return name


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

"""List all consumers of a stream: the server returns 256 at a time."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import nats.errors
import pydantic_core
from nats.aio.client import Client

from accelerator_autopilot.contracts.errors import UnavailableError

WITHIN_S = 5.0
MAX_PAGES = 400

Info = Mapping[str, Any]
"""What the server reports of a consumer, by the names of its API."""


async def consumer_pages(nc: Client, stream: str) -> AsyncIterator[Sequence[Info]]:
    """Yield page by page. Raises UnavailableError where the server does not answer or has no such stream."""
    offset = 0
    for _ in range(MAX_PAGES):
        page = await _page(nc, stream, offset)
        infos = page.get("consumers") or []
        yield infos
        offset += len(infos)
        if not infos or offset >= page.get("total", 0):
            return


async def all_consumers(nc: Client, stream: str) -> list[Info]:
    """Return all pages in one list."""
    return [info async for page in consumer_pages(nc, stream) for info in page]


async def _page(nc: Client, stream: str, offset: int) -> Mapping[str, Any]:
    subject = f"$JS.API.CONSUMER.LIST.{stream}"
    try:
        reply = await nc.request(subject, json.dumps({"offset": offset}).encode(), timeout=WITHIN_S)
        page = pydantic_core.from_json(reply.data)
    except (nats.errors.Error, OSError, ValueError) as error:
        raise UnavailableError(f"the consumers of {stream} could not be listed: {type(error).__name__}") from error
    if not isinstance(page, dict) or "error" in page:
        raise UnavailableError(f"the consumers of {stream} could not be listed: {str(page)[:200]}")
    return page

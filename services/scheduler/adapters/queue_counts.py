"""What the consumers of all kinds say of their queues, read in pages once a round."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import nats.errors
import pydantic_core
from nats.aio.client import Client

from services.scheduler.adapters.pool_tracks import QueueCount
from shared.errors import UnavailableError
from shared.messages.jobs import PRIORITIES
from shared.streams import job_durable
from shared.turns import Turns

LIST = "$JS.API.CONSUMER.LIST.JOBS"
WITHIN_S = 5.0
MOST_PAGES = 400


async def queue_counts(nc: Client) -> dict[str, QueueCount]:
    """By consumer. Raises UnavailableError where the server does not answer.

    One page tells of 256 consumers; to ask for each by its name takes a hundred times as long.
    """
    turns, found, offset = Turns(), dict[str, QueueCount](), 0
    for _ in range(MOST_PAGES):
        page = await _page(nc, offset)
        infos = page.get("consumers") or []
        for info in infos:
            found[info["name"]] = _count(info)
        offset += len(infos)
        if not infos or offset >= page.get("total", 0):
            break
        await turns.give()
    return found


class Queues:
    """The queues of one round."""

    def __init__(self, counts: Mapping[str, QueueCount]) -> None:
        self._counts = counts
        self._of_kind: dict[str, QueueCount | None] = {}

    def of(self, kinds: Iterable[str]) -> QueueCount | None:
        """Of some kinds together; None while one of them has no consumer that tells."""
        return _sum([self._kind(kind) for kind in kinds])

    def _kind(self, kind: str) -> QueueCount | None:
        if kind not in self._of_kind:
            self._of_kind[kind] = _sum([self._counts.get(name) for name in _consumers(kind)])
        return self._of_kind[kind]


@lru_cache(maxsize=100_000)
def _consumers(kind: str) -> tuple[str, ...]:
    return tuple(job_durable(kind, priority).durable_name or "" for priority in PRIORITIES)


def _sum(each: Sequence[QueueCount | None]) -> QueueCount | None:
    counts = [count for count in each if count is not None]
    if len(counts) < len(each):
        return None
    return QueueCount(
        sum(c.pending for c in counts),
        sum(c.in_hand for c in counts),
        sum(c.delivered for c in counts),
        sum(c.redelivered for c in counts),
    )


async def _page(nc: Client, offset: int) -> Mapping[str, Any]:
    try:
        reply = await nc.request(LIST, json.dumps({"offset": offset}).encode(), timeout=WITHIN_S)
        page = pydantic_core.from_json(reply.data)
    except (nats.errors.Error, OSError, ValueError) as error:
        raise UnavailableError(f"the consumers of JOBS are not told: {type(error).__name__}") from error
    if not isinstance(page, dict) or "error" in page:
        raise UnavailableError(f"the consumers of JOBS are not told: {str(page)[:200]}")
    return page


def _count(info: Mapping[str, Any]) -> QueueCount:
    return QueueCount(
        pending=info.get("num_pending") or 0,
        in_hand=info.get("num_ack_pending") or 0,
        delivered=(info.get("delivered") or {}).get("consumer_seq") or 0,
        redelivered=info.get("num_redelivered") or 0,
    )

"""Read the queue counts of all job consumers, in pages, once per round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from nats.aio.client import Client

from accelerator_autopilot.contracts.messages.jobs import PRIORITIES
from accelerator_autopilot.contracts.streams import job_durable
from accelerator_autopilot.runtime.cooperative_loops import CooperativeLoop
from accelerator_autopilot.scheduler.adapters.pool_rates import QueueCount
from accelerator_autopilot.transport.consumer_listing import consumer_pages


async def queue_counts(nc: Client) -> dict[str, QueueCount]:
    """Return counts by consumer. Raises UnavailableError when the server does not answer.

    One page describes 256 consumers; requesting each by name takes a hundred times as long.
    """
    turns, found = CooperativeLoop(), dict[str, QueueCount]()
    async for page in consumer_pages(nc, "JOBS"):
        for info in page:
            found[info["name"]] = _count(info)
        await turns.give()
    return found


class Queues:
    """The queues in one round."""

    def __init__(self, counts: Mapping[str, QueueCount]) -> None:
        self._counts = counts
        self._of_kind: dict[str, QueueCount | None] = {}
        self._of_kinds: dict[tuple[str, ...], QueueCount | None] = {}

    def of(self, kinds: Sequence[str]) -> QueueCount | None:
        """Sum several kinds, each counted once; None while one of them has no readable consumer."""
        key = tuple(kinds)
        if key not in self._of_kinds:
            self._of_kinds[key] = _sum([self._kind(kind) for kind in set(kinds)])
        return self._of_kinds[key]

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


def _count(info: Mapping[str, Any]) -> QueueCount:
    return QueueCount(
        pending=info.get("num_pending") or 0,
        in_hand=info.get("num_ack_pending") or 0,
        delivered=(info.get("delivered") or {}).get("consumer_seq") or 0,
        redelivered=info.get("num_redelivered") or 0,
    )

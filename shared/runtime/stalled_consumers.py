"""Detect stalled consumers: messages wait and none is taken, or the consuming task has ended."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import nats.errors
from faststream.nats import NatsBroker
from nats.js.api import ConsumerInfo
from nats.js.errors import APIError
from prometheus_client import CollectorRegistry, Counter

from accelerator_autopilot.runtime.shutdown import end_stuck

log = logging.getLogger(__name__)

STALLED_S = 30.0
# Messages in progress may take long, and failed ones wait before their retry.
STALLED_IN_HAND_S = 180.0
# After a gap this long between checks, the process itself was suspended.
MAX_CHECK_GAP_S = 10.0


@dataclass
class Progress:
    """Whether a consumer makes progress. Pure: times are in seconds of any clock."""

    mark: tuple[int, int] = (-1, -1)
    moved_at: float = 0.0
    looked_at: float = float("-inf")
    moved: bool = False

    def check(self, info: ConsumerInfo, now: float) -> float:
        """Return how many seconds beyond the limit messages have waited without a delivery or acknowledgement."""
        mark = (_sequence(info.delivered), _sequence(info.ack_floor))
        in_hand = info.num_ack_pending or 0
        looked_away = now - self.looked_at > MAX_CHECK_GAP_S
        self.looked_at, self.moved = now, mark != self.mark
        if looked_away or self.moved or not (info.num_pending or in_hand) or info.paused:
            self.mark, self.moved_at = mark, now
        still_s = now - self.moved_at
        return still_s if still_s > (STALLED_IN_HAND_S if in_hand else STALLED_S) else 0.0

    def reset(self, now: float) -> None:
        """Restart the timer."""
        self.moved_at = now


def _sequence(place: Any) -> int:
    return int(place.consumer_seq) if place is not None else 0


class Subscriptions:
    """The subscriptions of a broker's handlers: which have ended, and how to restart one."""

    def __init__(self, broker: NatsBroker, registry: CollectorRegistry) -> None:
        self._broker = broker
        self._dead: set[int] = set()
        self._restarted: set[int] = set()
        self._restarts = Counter(
            "autopilot_subscription_restarts", "stalled subscriptions that were restarted", ["name"],
            registry=registry,
        )  # fmt: skip

    def of(self, durable: str) -> Any:
        """Return the running subscription on a durable, or None."""
        for subscriber in self._broker.subscribers:
            options = getattr(subscriber, "extra_options", {})
            if subscriber.running and options.get("durable") == durable:
                return subscriber
        return None

    async def restart_ended(self) -> None:
        """Restart those whose tasks were found ended twice: FastStream itself restarts failed ones."""
        dead = {
            id(subscriber): subscriber
            for subscriber in self._broker.subscribers
            if subscriber.running and (tasks := getattr(subscriber, "tasks", [])) and all(t.done() for t in tasks)
        }
        for identity in self._dead & set(dead):
            await self.restart(dead[identity], "its task has ended")
        self._dead = set(dead) - self._dead

    async def restart(self, subscriber: Any, reason: str) -> None:
        """Recreate the subscription; if that fails, exit, so that the process is restarted."""
        name = str(getattr(subscriber, "extra_options", {}).get("durable") or subscriber.subject.template)
        self._restarts.labels(name).inc()
        log.error("subscription restarted", extra={"subscription": name, "reason": reason})
        try:
            await subscriber.stop()
            await subscriber.start()
        except (APIError, nats.errors.Error, OSError, RuntimeError) as error:
            end_stuck(f"subscription {name} cannot be restarted: {type(error).__name__}")

    async def heal(self, durable: str, still_s: float) -> bool:
        """Restart the subscription on a stalled durable, and exit when that did not help.

        False where the durable has no handler in this process.
        """
        subscriber = self.of(durable)
        if subscriber is None:
            return False
        if id(subscriber) in self._restarted:
            end_stuck(f"consumer {durable} took nothing for {still_s:.0f} s, also after a new subscription")
        self._restarted.add(id(subscriber))
        await self.restart(subscriber, f"took nothing for {still_s:.0f} s")
        return True

    def moves(self, durable: str) -> None:
        """Record that a durable makes progress."""
        if self._restarted and (subscriber := self.of(durable)) is not None:
            self._restarted.discard(id(subscriber))

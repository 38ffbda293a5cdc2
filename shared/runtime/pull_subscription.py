"""Standing pull requests on one durable consumer: messages arrive as soon as they exist.

nats-py's `fetch` waits for a whole request before the next; a worker wants a few requests open at all times, sized to
what it can run. The protocol is NATS ADR-37 ($JS.API.CONSUMER.MSG.NEXT).
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from contextlib import suppress

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from accelerator_autopilot.transport.wire_protocol import receive_directly, restore_callback

log = logging.getLogger(__name__)

EXPIRES_S = 5.0
GRACE_S = 1.0
ANSWER_S = 1.0


class PullSubscription:
    """Holds messages that one durable delivered, and requests more."""

    def __init__(
        self, nc: Client, stream: str, durable: str, arrived: asyncio.Event, *, expires_s: float = EXPIRES_S
    ) -> None:
        self._nc, self._arrived, self.durable, self._expires_s = nc, arrived, durable, expires_s
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{durable}"
        self._info = f"$JS.API.CONSUMER.INFO.{stream}.{durable}"
        self._inbox = nc.new_inbox()
        self._subscription: Subscription | None = None
        self._outstanding = 0
        self._asked_at = 0.0
        self._reconnects = nc.stats["reconnects"]
        self.ready: deque[Msg] = deque()
        self.missing = False

    async def start(self) -> None:
        """Open the inbox."""
        self._subscription = await self._nc.subscribe(self._inbox, cb=self._on_message)
        receive_directly(self._nc, self._subscription, self._take)

    async def ask(self, wanted: int) -> bool:
        """Keep requests for `wanted` messages open, minus what has arrived and not been taken.

        True when a request was just sent: until its answer had time to arrive, it is unknown whether there is a
        message.
        """
        if not self._nc.is_connected:
            # The client would keep requests of now and send them later, all at once.
            return False
        now = asyncio.get_running_loop().time()
        if self._reconnects != self._nc.stats["reconnects"]:
            # Requests silently end with their connection,
            self._outstanding, self._reconnects = 0, self._nc.stats["reconnects"]
        elif self._outstanding and now - self._asked_at > self._expires_s + GRACE_S:
            # or with a server. A hung server has kept them, and would answer each.
            if not await self._answers():
                return False
            self._outstanding = 0
        more = wanted - self._outstanding - len(self.ready)
        # Small top-ups cost a request each: wait until a good part is used up.
        if more <= 0 or (self._outstanding and more * 2 < wanted):
            return False
        self._outstanding += more
        self._asked_at = now
        request = {"batch": more, "expires": int(self._expires_s * 1e9)}
        await self._nc.publish(self._next, json.dumps(request).encode(), reply=self._inbox)
        return True

    async def _answers(self) -> bool:
        """Whether the server answers, whatever it says."""
        try:
            await self._nc.request(self._info, b"", timeout=ANSWER_S)
        except nats.errors.NoRespondersError:
            return True
        except (nats.errors.Error, OSError):
            return False
        return True

    async def stop(self) -> list[Msg]:
        """Stop receiving; returns messages that were never taken, including those in flight."""
        if self._subscription is not None:
            # A frozen or lost server sends nothing more; it must not delay the end of the consumer.
            with suppress(TimeoutError, nats.errors.Error):
                async with asyncio.timeout(ANSWER_S):
                    # Without a server nothing is in flight, and draining would wait for it.
                    if self._nc.is_connected:
                        await self._subscription.drain()  # type: ignore[no-untyped-call]
                    else:
                        await self._subscription.unsubscribe()
            restore_callback(self._nc, self._subscription)
        left = list(self.ready)
        self.ready.clear()
        return left

    async def _on_message(self, message: Msg) -> None:
        self._take(message)

    def _take(self, message: Msg) -> None:
        status = message.headers.get("Status") if message.headers and not message.data else None
        if status is None:
            if not message.reply.startswith("$JS.ACK."):
                # Not from a stream: somebody else published to the inbox.
                return
            self._outstanding = max(0, self._outstanding - 1)
            self.missing = False
            self.ready.append(message)
        elif status != "100":
            headers = message.headers or {}
            self._outstanding = max(0, self._outstanding - int(headers.get("Nats-Pending-Messages") or 1e9))
            # 503 and "Consumer Deleted" come at once: requesting again without a pause would spin.
            self.missing = status == "503" or "Deleted" in headers.get("Description", "")
        self._arrived.set()

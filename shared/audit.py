"""Who did what, written down: at once before a deed, or through an outbox that keeps nobody waiting."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable

import nats.errors
from nats.js import JetStreamContext
from prometheus_client import CollectorRegistry, Counter

from shared import subjects
from shared.clock import utc_now
from shared.errors import AutopilotError, UnavailableError
from shared.ids import new_id
from shared.messages.audit import AuditRecord
from shared.supervision import beat

log = logging.getLogger(__name__)

RETRY_S = 1.0
MOST_WAITING = 10_000
SHORT = 200


def record(actor: str, action: str, target: str = "", /, **detail: str) -> AuditRecord:
    """A record of now."""
    return AuditRecord(id=new_id(), actor=actor, action=action, target=target[:SHORT], detail=detail, at=utc_now())


async def write(js: JetStreamContext, entry: AuditRecord) -> None:
    """Put a record into the audit stream. Raises UnavailableError when it is not confirmed."""
    try:
        body = entry.model_dump_json().encode()
        await js.publish(subjects.audit(entry.actor), body, headers={"Nats-Msg-Id": entry.id})
    except (nats.errors.Error, OSError) as error:
        raise UnavailableError(f"{entry.action} not written into the audit: {type(error).__name__}") from error


class AuditOutbox:
    """Records that are written when the broker takes them; past a number the oldest are dropped, and counted."""

    def __init__(
        self, write_one: Callable[[AuditRecord], Awaitable[None]], registry: CollectorRegistry, most: int = MOST_WAITING
    ) -> None:
        self._write, self._most = write_one, most
        self._waiting: deque[AuditRecord] = deque()
        self._told = asyncio.Event()
        self._dropped = Counter("autopilot_audit_dropped", "records that were never written", registry=registry)

    def put(self, entry: AuditRecord) -> None:
        """Have a record written soon."""
        if len(self._waiting) >= self._most:
            self._waiting.popleft()
            self._dropped.inc()
        self._waiting.append(entry)
        self._told.set()

    async def run(self) -> None:
        """Write until cancelled; one that is not confirmed is tried again, under the same id."""
        while True:
            beat()
            if not self._waiting:
                self._told.clear()
                try:
                    async with asyncio.timeout(RETRY_S):
                        await self._told.wait()
                except TimeoutError:
                    continue
            entry = self._waiting[0]
            try:
                await self._write(entry)
            except UnavailableError:
                await asyncio.sleep(RETRY_S)
                continue
            except AutopilotError as error:
                # One that no subject can carry would keep all behind it waiting for ever.
                self._dropped.inc()
                log.warning("record dropped", extra={"action": entry.action, "error": str(error)})
            if self._waiting and self._waiting[0] is entry:
                self._waiting.popleft()

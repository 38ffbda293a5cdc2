"""An outbox for audit records: they are written when the broker accepts them, and nobody waits for that."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable

from prometheus_client import CollectorRegistry, Counter

from accelerator_autopilot.contracts.errors import AutopilotError, UnavailableError
from accelerator_autopilot.contracts.messages.audit import AuditRecord
from accelerator_autopilot.runtime.supervision import beat

log = logging.getLogger(__name__)

RETRY_S = 1.0
MAX_WAITING = 10_000


class AuditOutbox:
    """Queues records until the broker accepts them; beyond a limit the oldest are dropped and counted."""

    def __init__(
        self, write_one: Callable[[AuditRecord], Awaitable[None]], registry: CollectorRegistry, most: int = MAX_WAITING
    ) -> None:
        self._write, self._most = write_one, most
        self._waiting: deque[AuditRecord] = deque()
        self._added = asyncio.Event()
        self._dropped = Counter("autopilot_audit_dropped", "audit records that were lost", registry=registry)

    def put(self, entry: AuditRecord) -> None:
        """Queue a record."""
        if len(self._waiting) >= self._most:
            self._waiting.popleft()
            self._dropped.inc()
        self._waiting.append(entry)
        self._added.set()

    async def run(self) -> None:
        """Write until cancelled; an unconfirmed record is retried under the same id."""
        while True:
            beat()
            if not self._waiting:
                self._added.clear()
                try:
                    async with asyncio.timeout(RETRY_S):
                        await self._added.wait()
                except TimeoutError:
                    continue
            entry = self._waiting[0]
            try:
                await self._write(entry)
            except UnavailableError:
                await asyncio.sleep(RETRY_S)
                continue
            except AutopilotError as error:
                # One that no subject can carry would block all others forever.
                self._dropped.inc()
                log.warning("audit record dropped", extra={"action": entry.action, "error": str(error)})
            if self._waiting and self._waiting[0] is entry:
                self._waiting.popleft()

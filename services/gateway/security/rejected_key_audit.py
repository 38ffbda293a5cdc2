"""Unknown API keys: each is counted, and summaries are audited periodically, however many arrive."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

import prometheus_client

from accelerator_autopilot.contracts.messages.audit import AuditRecord
from accelerator_autopilot.runtime.supervision import beat
from accelerator_autopilot.transport.audit_records import record

REPORT_INTERVAL_S = 10.0
MAX_ADDRESSES = 1_000
MAX_LISTED_JOBS = 10


class RejectedKeyAudit:
    """Collects rejected requests by client address."""

    def __init__(self, put: Callable[[AuditRecord], None], registry: prometheus_client.CollectorRegistry) -> None:
        self._put = put
        self._since: Counter[str] = Counter()
        self._counted = prometheus_client.Counter(
            "autopilot_http_keys_refused", "requests rejected for a missing or unknown API key", registry=registry
        )

    def count(self, address: str, _status: int) -> None:
        """Count one request."""
        self._counted.inc()
        self._since[address if address in self._since or len(self._since) < MAX_ADDRESSES else "others"] += 1

    def write(self) -> None:
        """Write an audit record of what was collected since the last one."""
        if self._since:
            total = str(self._since.total())
            worst = {address: str(count) for address, count in self._since.most_common(MAX_LISTED_JOBS)}
            self._put(record("gateway", "key.refused", "gateway", count=total, **worst))
            self._since.clear()

    async def run(self) -> None:
        """Write records until cancelled."""
        while True:
            beat()
            await asyncio.sleep(REPORT_INTERVAL_S)
            self.write()

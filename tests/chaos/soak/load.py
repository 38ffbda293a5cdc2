"""Jobs at an even pace, of every way a job can be sent and can end; each is sent until it is confirmed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import nats.errors

from accelerator_autopilot.client import AutopilotClient
from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.errors import AutopilotError
from tests.chaos.soak.jobs_ledger import End, JobLedger

SENDERS = 256
# Seconds of the rate that may be open: a machine that is too busy for the rate is told as such, not by every job's age.
MOST_OPEN_S = 20.0
CYCLE = 100
# Short, so that what nats-server remembers of stored results is as much after five minutes as at the end.
# Longer than a job may wait to be delivered again.
RESULT_TTL_S = 240.0
# As long is the input of a dead job kept; a day of these would be all that grows.
TTL_S = 300.0
BATCH = 20
LARGE_TEXT = "x" * 300 * 1024
TRANSIENT = (AutopilotError, nats.errors.Error, OSError, TimeoutError)


@dataclass(frozen=True)
class Kind:
    """One way of a job: payload, wishes, and how it has to end."""

    payload: dict[str, Any]
    end: End = "succeeded"
    options: dict[str, Any] | None = None
    kind: str = "echo"


def job_of(number: int) -> Kind:
    """The job of a number: of 100 one of each special way; of 2,000 one with a payload for the object store."""
    text = {"text": str(number)}
    if number % 2000 == 11:
        return Kind({"text": LARGE_TEXT})
    if number % 500 == 12:
        return Kind(text, "dead", kind="nobody-runs-this")
    priority = {"priority": ("normal", "high", "low")[number % 3]}
    special = {
        0: Kind(text | {"fail": "permanently"}, "dead"),
        1: Kind(text | {"fail": "first_attempt"}),
        2: Kind(text, options={"delay_s": 3.0}),
        3: Kind(text, options={"after": [f"soak-{number - 27}"] if number > 27 else []}),
        4: Kind(text, "dead", {"after": [f"soak-{number - 4}"]}),
        5: Kind(text, "dead", {"ttl_s": 1e-6}),
        6: Kind({"text": 6, "work_s": -1}, "dead"),
        7: Kind(text | {"work_s": 0.2}),
    }
    return special.get(number % CYCLE, Kind(text, options=priority))


class Load:
    """Submits until it is told to stop."""

    def __init__(self, client: AutopilotClient, ledger: JobLedger, rate: float) -> None:
        self._client, self._ledger, self._rate = client, ledger, rate
        self._next = 0
        self._began = 0.0
        self.held_s = 0.0
        self.stopping = asyncio.Event()

    @property
    def submitted(self) -> int:
        """Jobs confirmed so far."""
        return len(self._ledger.expected)

    async def run(self) -> None:
        """Send at the rate, on average also after outages, until `stopping` is set."""
        self._began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for _ in range(SENDERS):
                group.create_task(self._send_jobs())
            group.create_task(self._send_batches())

    async def _send_jobs(self) -> None:
        while not self.stopping.is_set():
            number, self._next = self._next, self._next + 1
            await asyncio.sleep(max(0.0, self._began + number / self._rate - time.monotonic()))
            await self._room()
            job, job_id = job_of(number), f"soak-{number}"
            if number % 500 == 13:
                await self._confirmed(lambda job_id=job_id: self._rubbish(job_id))
                self._ledger.confirm(job_id, "unreadable", time.monotonic())
                continue
            options = {"result_ttl_s": RESULT_TTL_S, "ttl_s": TTL_S} | (job.options or {})
            await self._confirmed(
                lambda job=job, job_id=job_id, options=options: self._client.jobs.submit(
                    job.kind, job.payload, job_id=job_id, **options
                )
            )
            self._ledger.confirm(job_id, job.end, time.monotonic())

    async def _room(self) -> None:
        """Wait while so many are open that more would only grow old."""
        while self._ledger.open > MOST_OPEN_S * self._rate and not self.stopping.is_set():
            self.held_s += 0.2 / SENDERS
            await asyncio.sleep(0.2)

    async def _send_batches(self) -> None:
        number = 0
        while not self.stopping.is_set():
            number += 1
            batch_id = f"soakbatch{number}"
            payloads = [{"text": str(i)} for i in range(BATCH)]
            await self._confirmed(
                lambda batch_id=batch_id, payloads=payloads: self._client.batches.map(
                    "echo", payloads, batch_id=batch_id, result_ttl_s=RESULT_TTL_S, ttl_s=TTL_S
                )
            )
            for i in range(BATCH):
                self._ledger.confirm(f"{batch_id}.{i}", "succeeded", time.monotonic())
            await asyncio.sleep(5.0)

    async def _rubbish(self, job_id: str) -> None:
        subject = subjects.job("echo", "normal", job_id)
        await self._client.js.publish(subject, b'{"payload": ', stream="JOBS", headers={"Nats-Msg-Id": job_id})

    @staticmethod
    async def _confirmed(send: Callable[[], Awaitable[object]]) -> None:
        """Send again until it is confirmed: the same id, as a careful publisher does."""
        while True:
            try:
                await send()
            except TRANSIENT:
                await asyncio.sleep(0.2)
            else:
                return

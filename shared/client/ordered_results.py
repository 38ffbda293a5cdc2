"""Read the results of a batch in the order of its jobs: many at a time where available, else one by one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, DeliverPolicy

from accelerator_autopilot.client.job_following import look_again, patient
from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.errors import UnavailableError
from accelerator_autopilot.contracts.messages.jobs import JobResult
from accelerator_autopilot.transport.result_publishing import BUS_ERRORS
from accelerator_autopilot.transport.stream_reader import reading

# Another read costs as much as a few lookups of single results.
MIN_READ = 16
READ_AT_ONCE = 100
# Results that arrived before their turn; beyond this number the stream keeps the rest until there is room.
MAX_HELD_BYTES = 16 * 2**20

Parse = Callable[[bytes], Awaitable[JobResult | None]]
Find = Callable[[str], Awaitable[JobResult | None]]


class BatchResults:
    """A reader of a batch's results; `parse` reads a stored result, `find` looks up that of one job.

    `others` returns the indices of all existing jobs where one is not among them, `expired` the placeholder for
    that.
    """

    def __init__(
        self,
        nc: Client,
        js: JetStreamContext,
        batch_id: str,
        project: str,
        *,
        parse: Parse,
        find: Find,
        others: Callable[[int], Awaitable[set[str] | None]],
        expired: Callable[[int], JobResult],
    ) -> None:
        self._js, self._batch_id, self._project = js, batch_id, project
        self._others, self._expired = others, expired
        self._there: set[str] | None = None
        self._parse, self._find = parse, patient(nc, find)
        self._nc = nc
        self._held: dict[int, bytes] = {}
        self._held_bytes, self._next_sequence = 0, 1
        self._news, self._arrived = asyncio.Event(), MIN_READ

    async def in_order(self, count: int, timeout_s: float | None) -> AsyncGenerator[JobResult, None]:
        """Yield the results of the first `count` jobs.

        Raises TimeoutError when the next takes longer than `timeout_s`.
        """

        async def on_result(_: Msg) -> None:
            self._arrived += 1
            self._news.set()

        subscription = await self._nc.subscribe(subjects.results_of(self._batch_id, self._project), cb=on_result)
        try:
            for index in range(count):
                async with asyncio.timeout(timeout_s):
                    found = await self._one(index)
                yield found
        finally:
            await subscription.unsubscribe()

    async def _one(self, index: int) -> JobResult:
        pauses, tries = look_again(), 0
        while True:
            self._news.clear()
            if self._arrived >= MIN_READ and index not in self._held and self._held_bytes < MAX_HELD_BYTES:
                await self._read_ahead(index)
            stored = self._held.pop(index, None)
            self._held_bytes -= len(stored or b"")
            # In a published batch, a job that is once found nowhere never appears.
            if stored is None and self._there is not None and str(index) not in self._there:
                return self._expired(index)
            found = await self._parse(stored) if stored is not None else await self._find(f"{self._batch_id}.{index}")
            if found is not None:
                return found
            if tries and (there := await self._others(index)) is not None:
                self._there = there
                return self._expired(index)
            tries += 1
            with suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), next(pauses))

    async def _read_ahead(self, index: int) -> None:
        """Read on from where the last read ended; where the stream is unreadable, only `find` is used."""
        self._arrived = 0
        config = ConsumerConfig(
            filter_subject=subjects.results_of(self._batch_id, self._project),
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=self._next_sequence,
        )
        with suppress(UnavailableError, *BUS_ERRORS):
            async with reading(self._js, "RESULTS", config) as reader:
                while reader.pending and self._held_bytes < MAX_HELD_BYTES:
                    for message in await reader.read(min(READ_AT_ONCE, reader.pending)):
                        self._next_sequence = message.sequence + 1
                        number = message.subject.rpartition(".")[2]
                        if number.isdecimal() and int(number) >= index:
                            self._held[int(number)] = message.data
                            self._held_bytes += len(message.data)
                if reader.pending:
                    self._arrived = MIN_READ

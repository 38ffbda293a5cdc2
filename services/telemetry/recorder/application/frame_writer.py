"""Write frames from the stream as rows: fetch while writing, acknowledge after the commit, report gaps."""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial

from nats.aio.client import Client
from nats.aio.msg import Msg
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from accelerator_autopilot.contracts.frame_decoder import FrameDecoder
from accelerator_autopilot.contracts.frames import TelemetryFrame
from accelerator_autopilot.contracts.streams import durable
from accelerator_autopilot.runtime.consumers import Watched, give_back
from accelerator_autopilot.runtime.poison_messages import PoisonRule
from accelerator_autopilot.runtime.pull_subscription import PullSubscription
from accelerator_autopilot.runtime.supervision import beat
from accelerator_autopilot.telemetry.device_metrics.latest_samples import LatestSamples
from accelerator_autopilot.telemetry.recorder.application.database_writer import (
    REFUSED,
    DatabaseWriter,
    acknowledge,
    keep_alive,
)
from accelerator_autopilot.telemetry.recorder.domain.clock_skew import ClockWatch
from accelerator_autopilot.telemetry.recorder.domain.frame_sequence import FrameSequence, Totals
from accelerator_autopilot.telemetry.recorder.ports import FrameStore
from accelerator_autopilot.transport.clock import utc_now

log = logging.getLogger(__name__)

DURABLE = "recorder-frames"
FRAMES = Watched("TELEMETRY", durable(DURABLE, max_ack_pending=60_000))
SLICE = 500
AGES_PER_BATCH = 500  # how many frames of a batch the latency histogram samples
NOT_SUSPICIOUS_US = 20_000_000
AGES_S = (0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5, 10, 30, 60, 300, 900, 3600)

Pair = tuple[Msg, TelemetryFrame]


class FrameWriter:
    """One recorder's share of the frames."""

    def __init__(
        self,
        persister: DatabaseWriter,
        poison: PoisonRule,
        registry: CollectorRegistry,
        latest: LatestSamples,
        *,
        batch: int,
        linger_s: float,
    ) -> None:
        self._persister, self._poison = persister, poison
        self._batch, self._linger_s, self._latest = batch, linger_s, latest
        self._rows = Counter("autopilot_recorded_samples", "sample rows written", registry=registry)
        self._duplicates = Counter(
            "autopilot_samples_duplicate", "samples that were already in the database", registry=registry
        )
        self._bad = Counter("autopilot_frames_undecodable", "frames that could not be decoded", registry=registry)
        self._refused = Counter("autopilot_frames_refused", "frames rejected by the database", registry=registry)
        self._newer = Counter("autopilot_frames_newer_schema", "frames with a newer schema version", registry=registry)
        self._age = Histogram(
            "autopilot_frame_age_seconds", "time from sample to committed row", registry=registry, buckets=AGES_S
        )
        self._backlog = Gauge(
            "autopilot_frames_backlog", "frames in the stream that are not written yet", registry=registry
        )
        self._skewed = Gauge(
            "autopilot_nodes_clock_skewed", "nodes whose clock differs from the recorder's", registry=registry
        )
        self.totals = Totals()
        self.tally = FrameSequence()
        self.clocks = ClockWatch()
        self.backlog = 0
        self._batch_stored_us = 0
        self._decoder = FrameDecoder()

    async def run(self, nc: Client, store: FrameStore) -> None:
        """Record until cancelled."""
        arrived = asyncio.Event()
        puller = PullSubscription(nc, FRAMES.stream, DURABLE, arrived)
        await puller.start()
        # Two transactions at once: while the server writes one, the next is decoded.
        slots = asyncio.Semaphore(2)
        try:
            async with asyncio.TaskGroup() as writers:
                writers.create_task(self._keep_waiting_alive(puller))
                while True:
                    beat()
                    await puller.ask(2 * self._batch)
                    if not puller.ready:
                        await _wait(arrived, 0.5)
                        continue
                    if len(puller.ready) < self._batch:
                        # A commit costs the same for one frame as for thousands.
                        await asyncio.sleep(self._linger_s)
                    await slots.acquire()
                    batch = [puller.ready.popleft() for _ in range(min(self._batch, len(puller.ready)))]
                    self.backlog = len(puller.ready) + batch[-1].metadata.num_pending
                    self._backlog.set(self.backlog)
                    writing = writers.create_task(self._record_or_give_back(nc, store, batch))
                    writing.add_done_callback(lambda _: slots.release())
        finally:
            await give_back(await puller.stop())

    async def _record_or_give_back(self, nc: Client, store: FrameStore, batch: list[Msg]) -> None:
        try:
            await self._record(nc, store, batch)
        except asyncio.CancelledError:
            await give_back(batch)
            raise

    async def _record(self, nc: Client, store: FrameStore, batch: list[Msg]) -> None:
        pairs = await self._decode_all(batch)
        self.totals.errors += len(batch) - len(pairs)
        written, pairs = await self._write(store, pairs)
        frames = [frame for _, frame in pairs]
        samples = sum(f.ticks * len(f.devices) for f in frames)
        self._rows.inc(written)
        self._duplicates.inc(max(0, samples - written))
        self.totals.samples += written
        self.totals.duplicates += max(0, samples - written)
        await acknowledge(nc, [message for message, _ in pairs])
        now = utc_now().timestamp()
        for frame in frames[:: max(1, len(frames) // AGES_PER_BATCH)]:
            # With a wrong clock a frame has no meaningful age; its node is reported instead.
            if not self.clocks.is_off(frame):
                age_s = max(0.0, now - frame.end_us / 1e6)
                self._age.observe(age_s)
                self.totals.oldest_s = max(self.totals.oldest_s, age_s)
        self.tally.add(frames)
        self._skewed.set(len(self.clocks.off))
        self._update_latest(frames)

    def _update_latest(self, frames: list[TelemetryFrame]) -> None:
        """Update the latest samples for /metrics, for as many devices as it may show."""
        now_s, room = time.monotonic(), self._latest.limit
        for frame in frames:
            if room <= 0:
                return
            room -= len(frame.devices)
            for device, sample in frame.latest().items():
                self._latest.update(frame.node, device, sample, now_s)

    async def _write(self, store: FrameStore, pairs: list[Pair]) -> tuple[int, list[Pair]]:
        """Write all frames at once or, when that fails, each half by itself.

        Returns the new rows and the written frames; a frame that can never be written is quarantined and blocks
        no other.
        """
        batch, frames = [message for message, _ in pairs], [frame for _, frame in pairs]
        if not pairs:
            return 0, []
        try:
            return await self._persister.write("TELEMETRY", batch, partial(store.write, frames)), pairs
        except Exception as error:  # noqa: BLE001  also what a strange frame makes of our own code
            if len(pairs) == 1:
                self._refused.inc()
                await self._poison.settle(batch[0], DURABLE, error, hopeless=isinstance(error, REFUSED))
                return 0, []
        half = len(pairs) // 2
        (rows, done), (more_rows, more) = await self._write(store, pairs[:half]), await self._write(store, pairs[half:])
        return rows + more_rows, done + more

    async def _decode_all(self, batch: list[Msg]) -> list[Pair]:
        pairs: list[Pair] = []
        self._batch_stored_us = stored_us(batch[-1])
        for start in range(0, len(batch), SLICE):
            for message in batch[start : start + SLICE]:
                try:
                    pairs.append((message, self._decode(message)))
                except Exception as error:  # noqa: BLE001  whatever a frame makes of itself
                    self._bad.inc()
                    await self._poison.settle(message, DURABLE, error)
            # The previous transaction is being committed meanwhile.
            await asyncio.sleep(0)
        return pairs

    def _decode(self, message: Msg) -> TelemetryFrame:
        frame = self._decoder.decode(message.data, message.subject)
        if frame.newer:
            self._newer.inc()
        suspicious = abs(frame.start_us - self._batch_stored_us) > NOT_SUSPICIOUS_US or self.clocks.off
        if suspicious and self.clocks.observe(frame, stored_us(message)):
            off_s = round(self.clocks.off.get(frame.node, 0.0), 1)
            log.warning("clock skew of a node", extra={"node": frame.node, "off_s": off_s})
        return frame

    async def _keep_waiting_alive(self, puller: PullSubscription) -> None:
        """Keep messages queued behind a slow transaction from being redelivered."""
        last = time.monotonic()
        while True:
            await asyncio.sleep(1.0)
            if puller.ready and time.monotonic() - last > 10.0:
                last = time.monotonic()
                await keep_alive(list(puller.ready))


def stored_us(message: Msg) -> int:
    """Return when the stream stored a message, in µs: the last but one token of its reply subject (NATS ADR-15)."""
    return int(message.reply.rsplit(".", 2)[1]) // 1000


async def _wait(arrived: asyncio.Event, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await arrived.wait()
    except TimeoutError:
        return
    finally:
        arrived.clear()

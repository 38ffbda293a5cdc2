"""Buckets and queues as the scheduler reads them: only what changed, and everything again when something was lost."""

from __future__ import annotations

import asyncio
from typing import Self

import pytest
from nats.aio.client import Client
from nats.js.api import KeyValueConfig
from prometheus_client import CollectorRegistry

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.errors import UnavailableError
from accelerator_autopilot.contracts.messages.jobs import PoolStatus, WorkerStatus
from accelerator_autopilot.contracts.messages.telemetry import NodeInventory
from accelerator_autopilot.contracts.streams import job_durable
from accelerator_autopilot.scheduler.adapters.latest_frames import LatestFrames
from accelerator_autopilot.scheduler.adapters.observation_reader import READ_METRICS, FleetReader
from accelerator_autopilot.scheduler.adapters.queue_counts import Queues, queue_counts
from accelerator_autopilot.scheduler.domain.latest_readings import LatestReadings
from accelerator_autopilot.telemetry.recorder.adapters.queue_rows import write_queue
from accelerator_autopilot.transport import bucket_changes
from accelerator_autopilot.transport.bucket_changes import BucketChanges
from accelerator_autopilot.transport.clock import utc_now
from accelerator_autopilot.transport.consumer_listing import all_consumers
from tests.support.builders import device

pytestmark = [pytest.mark.nats, pytest.mark.timeout(60)]


async def test_a_follower_tells_what_changed_and_what_is_gone(nc: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    js = nc.jetstream()
    kv = await js.key_value("pools")
    follower = BucketChanges(js, "pools")
    assert await follower.changes() == {}
    await asyncio.gather(*(kv.put(f"p{i}", b"1") for i in range(50)))
    assert len(await follower.changes()) == 50
    assert await follower.changes() == {}
    await kv.put("p1", b"2")
    await kv.put("p1", b"3")
    await kv.delete("p2")
    assert await follower.changes() == {"p1": b"3", "p2": None}
    # Taken out of the stream without a mark.
    await js.purge_stream("KV_pools", subject="$KV.pools.p3")
    monkeypatch.setattr(bucket_changes, "CHECK_INTERVAL_S", 0.0)
    found = await follower.changes()
    assert (found["p3"], found["p1"], len(found)) == (None, b"3", 50)
    # The server loses the consumer, as it does when it is quiet for long or restarts.
    (consumer,) = [c.name for c in await js.consumers_info("KV_pools")]
    await js.delete_consumer("KV_pools", consumer)
    await kv.put("p4", b"9")
    with pytest.raises(UnavailableError):
        await follower.changes()
    assert (await follower.changes())["p4"] == b"9"
    await js.delete_key_value("pools")
    with pytest.raises(UnavailableError):
        await follower.changes()
    await js.create_key_value(KeyValueConfig(bucket="pools"))
    await (await js.key_value("pools")).put("new", b"1")
    found = await follower.changes()
    assert found["new"] == b"1"
    assert {value for key, value in found.items() if key != "new"} == {None}
    await follower.forget()
    assert (await js.stream_info("KV_pools")).state.consumer_count == 0


class FakeDatabase:
    """Keeps the rows that are written."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str, int, int]] = []

    def acquire(self) -> FakeDatabase:
        return self

    def transaction(self) -> FakeDatabase:
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def executemany(self, _: str, rows: list[tuple[str, str, int, int]]) -> None:
        self.rows += rows


async def test_queues_of_all_kinds_are_counted_in_one_look(nc: Client) -> None:
    js = nc.jetstream()
    # More than a page of the server's list holds.
    durables = [job_durable(f"k{i}", priority) for i in range(90) for priority in ("high", "normal", "low")]
    await asyncio.gather(*(js.add_consumer("JOBS", each) for each in durables))
    for number in range(5):
        await js.publish(subjects.job("k7", "high", f"a{number}"), b"{}")
        await js.publish(subjects.job("k8", "low", f"b{number}"), b"{}")
    pulled = await js.pull_subscribe_bind("pool-k7-high", stream="JOBS")
    await pulled.fetch(2)
    queues = Queues(await queue_counts(nc))
    of_both = queues.of(["k7", "k8"])
    assert of_both is not None
    assert (of_both.pending, of_both.in_hand, of_both.delivered) == (8, 2, 2)
    assert queues.of(["k7", "nobody"]) is None
    database = FakeDatabase()
    await write_queue(database, js)  # type: ignore[arg-type]
    assert len(database.rows) == len(durables), "the recorder's rows are of all of them too"
    assert {row for row in database.rows if row[2] or row[3]} == {("k7", "high", 3, 2), ("k8", "low", 5, 0)}
    names = {info["name"] for info in await all_consumers(nc, "JOBS")}
    assert names == {each.durable_name for each in durables}
    with pytest.raises(UnavailableError):
        await all_consumers(nc, "NO-SUCH-STREAM")


async def test_pools_and_devices_are_those_that_were_written_last(nc: Client) -> None:
    js = nc.jetstream()
    frames = LatestFrames(LatestReadings(READ_METRICS), lambda: utc_now().timestamp(), 10.0, CollectorRegistry())
    reader = FleetReader(js, 10.0, frames)
    worker = WorkerStatus(worker="w", device="g", pid=1, state="ready", started_at=utc_now())

    async def tell(done: int, node: str = "n") -> None:
        workers = [worker.model_copy(update={"jobs_done": done})]
        part = PoolStatus(pool="p", node=node, at=utc_now(), desired=1, kinds=["echo"], workers=workers)
        await (await js.key_value("pools")).put(f"p.{node}", part.model_dump_json().encode())

    await tell(1)
    (before,) = (await reader.pools(utc_now()))["p"]
    await tell(1)
    (same,) = (await reader.pools(utc_now()))["p"]
    assert same.at > before.at
    assert same.workers is before.workers, "only its time was read"
    await tell(2)
    (other,) = (await reader.pools(utc_now()))["p"]
    assert other.workers[0].jobs_done == 2
    await (await js.key_value("pools")).delete("p.n")
    assert await reader.pools(utc_now()) == {}

    kv = await js.key_value("inventory")
    for node in ("n1", "n2"):
        told = NodeInventory(node=node, at=utc_now(), period_s=1.0, boot_id="b", devices=[device(device="g")])
        await kv.put(node, told.model_dump_json().encode())
    book = await reader.devices()
    assert set(book.devices) == {("n1", "g"), ("n2", "g")}
    await kv.delete("n1")
    assert set((await reader.devices()).devices) == {("n2", "g")}
    assert book.epochs == {("n2", "g"): ("b", "")}

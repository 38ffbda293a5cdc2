"""A fleet's telemetry from JetStream to committed rows, beside a bare COPY of the same rows, in one run.

12,500 simulated nodes of 8 devices with 24 metrics are published by one process, a frame a node
and second, and written by one recorder: for a minute at 1 Hz, then as fast as both can. Each part
counts the rows that are in the database at its end. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import asyncpg
import httpx
import nats
import numpy as np

from accelerator_autopilot.contracts.frames import TelemetryFrame, encode
from accelerator_autopilot.contracts.metric_catalogue import NAMES
from accelerator_autopilot.deploy.local.instance import take_port
from accelerator_autopilot.deploy.local.servers import EmbeddedPostgres, nats_binary, wait_for_port, write_nats_config
from accelerator_autopilot.runtime.database import migrate
from accelerator_autopilot.telemetry.recorder.adapters.copy_format import copy_binary
from accelerator_autopilot.telemetry.recorder.domain.frame_blocks import SampleBlock
from accelerator_autopilot.transport import stream_setup

DEVICES, METRICS = 8, NAMES[:24]
WINDOW = 4_000
WRITTEN_AT_ONCE = 50
COPY_ROWS = 32_000


def now_us() -> int:
    return time.time_ns() // 1000


class Wire(asyncio.Protocol):
    """A bare connection that counts the stream's confirmations.

    A publisher that took more than the recorder does would be what is measured.
    """

    def __init__(self) -> None:
        self.confirmed = 0
        self.heard = asyncio.Event()
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        lines, _, self._rest = (self._rest + data).rpartition(b"\r\n")
        self.confirmed += lines.count(b'"seq":')
        if b"PING" in lines:
            self.transport.write(b"PONG\r\n")
        self.heard.set()


class FleetPublisher:
    """Publishes frames of many nodes and counts the stream's confirmations."""

    def __init__(self, nodes: int, name: str) -> None:
        self._name = name
        noise = np.random.default_rng(7)
        self._frames = [self._template(node, noise) for node in range(nodes)]
        self._lines: list[bytes] = []
        self.sent = 0

    def _template(self, node: int, noise: np.random.Generator) -> tuple[bytes, bytes]:
        """The frame as it is published, before and after its time: encoding is the agents' work, not ours."""
        marker = 0x0102030405060708
        frame = TelemetryFrame(
            node=f"{self._name}{node:05d}",
            start_us=marker,
            period_s=1.0,
            devices=tuple(f"GPU-{self._name}{node:05d}-{d}" for d in range(DEVICES)),
            metrics=METRICS,
            values=noise.normal(300, 40, (1, DEVICES, len(METRICS))).astype(np.float32),
            sequence=1,
            epoch_us=1,
        )
        body = encode(frame)
        line = f"PUB telemetry.frames.{frame.node} _INBOX.bench.a {len(body)}\r\n".encode()
        head, tail = (line + body + b"\r\n").split(marker.to_bytes(8, "big"))
        return head, tail

    async def start(self, url: str) -> None:
        place = urlsplit(url)
        _, self._wire = await asyncio.get_running_loop().create_connection(Wire, place.hostname, place.port)
        said = {"verbose": False, "pedantic": False, "user": place.username, "pass": place.password}
        self._wire.transport.write(f"CONNECT {json.dumps(said)}\r\nSUB _INBOX.bench.* 1\r\n".encode())

    async def publish(self, index: int, at_us: int) -> None:
        while self.sent - self._wire.confirmed >= WINDOW:
            self.flush()
            self._wire.heard.clear()
            await self._wire.heard.wait()
        head, tail = self._frames[index]
        self.sent += 1
        self._lines += (head, at_us.to_bytes(8, "big"), tail)
        if len(self._lines) >= 3 * WRITTEN_AT_ONCE:
            self.flush()

    def flush(self) -> None:
        self._wire.transport.write(b"".join(self._lines))
        self._lines.clear()

    async def settle(self) -> None:
        self.flush()
        async with asyncio.timeout(60):
            while self._wire.confirmed < self.sent:
                await asyncio.sleep(0.01)

    def close(self) -> None:
        self._wire.transport.close()


async def publish_paced(publisher: FleetPublisher, nodes: int, seconds: int) -> float:
    """Every node once a second, spread over the second; returns by how much the last was late."""
    loop = asyncio.get_running_loop()
    begin = loop.time()
    slices = 100
    for tick in range(seconds):
        for part in range(slices):
            late = begin + tick + part / slices - loop.time()
            if late > 0:
                await asyncio.sleep(late)
            for node in range(part * nodes // slices, (part + 1) * nodes // slices):
                await publisher.publish(node, now_us())
            publisher.flush()
    await publisher.settle()
    return loop.time() - begin - seconds


async def publish_flat_out(publisher: FleetPublisher, nodes: int, frames: int) -> None:
    base = now_us() - 300_000_000
    for number in range(frames):
        await publisher.publish(number % nodes, base + number // nodes * 1_000_000)
    await publisher.settle()


async def publishing(url: str, nodes: int, seconds: int, frames: int, name: str) -> None:
    """The publisher's process."""
    publisher = FleetPublisher(nodes, name)
    await publisher.start(url)
    cpu, began = time.process_time(), time.monotonic()
    if frames:
        await publish_flat_out(publisher, nodes, frames)
        late = 0.0
    else:
        late = await publish_paced(publisher, nodes, seconds)
    print(
        json.dumps(
            {"sent": publisher.sent, "late_s": round(late, 3), "cpu_s": time.process_time() - cpu, "began": began}
        )
    )
    publisher.close()


async def run_publisher(url: str, nodes: int, *, seconds: int = 0, frames: int = 0, name: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.benchmarks.ingest", "--publish", url, "--nodes", str(nodes)]
    command += ["--seconds", str(seconds), "--frames", str(frames), "--name", name]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    out, _ = await process.communicate()
    assert process.returncode == 0
    return json.loads(out)


async def bare_copy(dsn: str, rows: int) -> float:
    """Rows a second of a bare binary COPY of the same rows into a table with the same indexes."""
    connection = await asyncpg.connect(dsn)
    await connection.execute("CREATE TABLE bare (LIKE samples)")
    await connection.execute("ALTER TABLE bare ADD UNIQUE (device_id, ts)")
    await connection.execute("CREATE INDEX ON bare USING brin (ts) WITH (autosummarize = on)")
    if await connection.fetchval("SELECT count(*) FROM pg_extension WHERE extname = 'timescaledb'"):
        await connection.execute("SELECT create_hypertable('bare', 'ts', create_default_indexes => false)")
    noise = np.random.default_rng(7)
    base, streams_ = now_us(), []
    for start in range(0, rows, COPY_ROWS):
        number = np.arange(start, start + COPY_ROWS)
        block = SampleBlock(
            METRICS,
            base + number // 100_000 * 1_000_000,
            (number % 100_000).astype(np.int32),
            noise.normal(300, 40, (COPY_ROWS, len(METRICS))).astype(np.float32),
        )
        streams_.append(copy_binary(block))
    begin = time.perf_counter()
    for data in streams_:

        async def whole(data: bytes = data) -> AsyncIterator[bytes]:
            yield data

        await connection.copy_to_table("bare", source=whole(), columns=("ts", "device_id", *METRICS), format="binary")
    rate = len(streams_) * COPY_ROWS / (time.perf_counter() - begin)
    await connection.execute("DROP TABLE bare")
    await connection.execute("CHECKPOINT")
    await connection.close()
    return rate


async def count_rows(dsn: str) -> int:
    """Rows that are there, counted."""
    connection = await asyncpg.connect(dsn)
    rows = await connection.fetchval("SELECT count(*) FROM samples")
    await connection.close()
    return int(rows)


async def recorded(port: int) -> dict[str, float]:
    """The recorder's own counters."""
    async with httpx.AsyncClient(trust_env=False) as http:
        text = (await http.get(f"http://127.0.0.1:{port}/metrics")).text
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line[:1] != "#"}


def age_p99_s(before: dict[str, float], after: dict[str, float]) -> float:
    """Upper bound of the 99th percentile of a frame's age, from the recorder's histogram."""
    prefix = 'autopilot_frame_age_seconds_bucket{le="'
    grown = sorted((float(k[len(prefix) : -2]), v - before.get(k, 0)) for k, v in after.items() if k.startswith(prefix))
    total = grown[-1][1]
    return next((le for le, count in grown if count >= 0.99 * total), float("inf"))


async def until_recorded(port: int, before: dict[str, float], wanted: int, deadline_s: float) -> float:
    """When the recorder had written that many rows."""
    until = time.monotonic() + deadline_s
    while True:
        now = (await recorded(port))["autopilot_recorded_samples_total"]
        if now - before["autopilot_recorded_samples_total"] >= wanted or time.monotonic() > until:
            return time.monotonic()
        await asyncio.sleep(0.2)


async def run(args: argparse.Namespace) -> None:  # noqa: PLR0915  one measurement from begin to end
    folder = Path(tempfile.mkdtemp(prefix="autopilot-bench-"))
    folder.chmod(0o755)
    port, health = take_port(0, "nats"), take_port(0, "health")
    config = write_nats_config(folder, port, "bench", "bench", sync=args.sync)
    server = subprocess.Popen([nats_binary(), "-c", str(config)], stderr=subprocess.DEVNULL)
    postgres = None
    dsn = args.database
    if dsn is None:
        postgres = EmbeddedPostgres(folder / "pg")
        await postgres.start()
        dsn = postgres.url
    recorder = None
    url = f"nats://bench:bench@127.0.0.1:{port}"
    try:
        await wait_for_port(port)
        await migrate(dsn)
        baseline = await bare_copy(dsn, args.bare_rows)
        nc = await nats.connect(url)
        await stream_setup.ensure(nc.jetstream())
        await nc.close()
        env = os.environ | {
            "AUTOPILOT_NATS_URL": f"nats://127.0.0.1:{port}",
            "AUTOPILOT_NATS_USER": "bench",
            "AUTOPILOT_NATS_PASSWORD": "bench",
            "AUTOPILOT_DATABASE_URL": dsn,
            "AUTOPILOT_HEALTH_PORT": str(health),
            "AUTOPILOT_LOG_LEVEL": "WARNING",
            # This program asks for the recorder's counters all the time, as no Prometheus would.
            "AUTOPILOT_DEVICE_METRICS_LIMIT": "0",
        }
        command = [sys.executable, "-m", "accelerator_autopilot.telemetry", "recorder"]
        profile = ["-m", "cProfile", "-o", args.profile] if args.profile else []
        recorder = subprocess.Popen([*command[:1], *profile, *command[1:]], env=env)
        await wait_for_port(health, deadline_s=30)

        async def is_ready() -> bool:
            async with httpx.AsyncClient(trust_env=False) as http:
                return (await http.get(f"http://127.0.0.1:{health}/readyz")).status_code == 200

        async with asyncio.timeout(30):
            while not await is_ready():
                await asyncio.sleep(0.1)
        before = await recorded(health)
        paced = await run_publisher(url, args.nodes, seconds=args.seconds, name="s")
        wanted = paced["sent"] * DEVICES
        await until_recorded(health, before, wanted, 60)
        after = await recorded(health)
        rows = await count_rows(dsn)
        sustained = rows / (args.seconds + max(0.0, paced["late_s"]))
        p99 = age_p99_s(before, after)
        cpu = "process_cpu_seconds_total"
        recorder_cpu = (after[cpu] - before[cpu]) / args.seconds
        before = after
        flat = await run_publisher(url, args.nodes, frames=args.frames, name="s")
        published = time.monotonic()
        done = await until_recorded(health, before, args.frames * DEVICES, 120)
        flat_rows = await count_rows(dsn) - rows
        # Both processes read the machine's one monotonic clock.
        value = flat_rows / (done - flat["began"])
        print(
            json.dumps(
                {
                    "name": "ingest",
                    "value": round(value),
                    "unit": "device ticks/s",
                    "baseline": round(baseline),
                    "ratio": round(value / baseline, 3),
                    "sustained": round(sustained),
                    "sustained_s": args.seconds,
                    "publisher_late_s": paced["late_s"],
                    "age_p99_s": p99,
                    "lost": wanted - rows + args.frames * DEVICES - flat_rows,
                    "recorder_cores": round(recorder_cpu, 2),
                    "publisher_cores": round(paced["cpu_s"] / args.seconds, 2),
                    "flat_publish_s": round(published - flat["began"], 1),
                    "flat_publisher_cpu_s": round(flat["cpu_s"], 1),
                    "nodes": args.nodes,
                    "sync_interval": args.sync,
                }
            )
        )
    finally:
        if recorder is not None:
            recorder.terminate()
            recorder.wait()
        if postgres is not None:
            await postgres.stop()
        server.terminate()
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="a twentieth of it, for CI")
    parser.add_argument("--nodes", type=int, default=12_500)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--frames", type=int, default=300_000, help="frames published flat out")
    parser.add_argument("--bare-rows", type=int, default=2_400_000)
    parser.add_argument("--sync", default="2m", help="sync_interval of the nats-server")
    parser.add_argument("--database", help="DSN of a server of your own, say one with TimescaleDB")
    parser.add_argument("--profile", help="file for a cProfile of the recorder")
    parser.add_argument("--publish", help=argparse.SUPPRESS)
    parser.add_argument("--name", default="n", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.publish:
        asyncio.run(publishing(args.publish, args.nodes, args.seconds, args.frames, args.name))
        return
    if args.short:
        args.nodes, args.seconds, args.frames, args.bare_rows = 1_000, 5, 20_000, 200_000
    asyncio.run(run(args))


if __name__ == "__main__":
    main()

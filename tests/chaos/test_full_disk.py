"""A disk that was full and has room again is written to again, without anybody's help."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import nats
import pytest
from nats.errors import Error
from nats.js import JetStreamContext
from nats.js.api import KeyValueConfig, StreamConfig
from nats.js.errors import APIError
from pydantic import SecretStr

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.messages.alerts import Alert
from accelerator_autopilot.deploy.local.disk_pressure import MIB, DiskPressure
from accelerator_autopilot.deploy.local.instance import take_port
from accelerator_autopilot.deploy.local.nats_disk_monitor import DiskWatch
from accelerator_autopilot.deploy.local.servers import nats_binary, wait_for_port, write_nats_config
from accelerator_autopilot.deploy.local.supervised_process import ManagedProcess
from accelerator_autopilot.transport.direct_reads import last_messages
from accelerator_autopilot.transport.settings import NatsSettings
from tests.support.waiting import eventually


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = os.geteuid() == 0 and shutil.which("mount")
    if (
        not mounted
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", folder], check=False).returncode
    ):
        pytest.skip("a small file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


async def confirmed(js: JetStreamContext, data: bytes) -> bool:
    try:
        await js.publish("s.x", data, timeout=2.0)
    except (Error, APIError, OSError):
        return False
    return True


@dataclass
class Watched:
    """A nats-server on a small disk, a connection, and the watch over it."""

    js: JetStreamContext
    server: ManagedProcess
    disk: Path
    watch: DiskWatch
    watching: asyncio.Task[None] | None = None

    def check(self) -> None:
        """Have the disk watched from now on."""
        self.watching = asyncio.create_task(self.watch.run())

    def fill(self) -> Path:
        """Leave not a byte."""
        filler = self.disk / "filler"
        with filler.open("wb") as file, suppress(OSError):
            while True:
                file.write(b"x" * MIB)
                file.flush()
        return filler

    async def alerts(self) -> list[Alert]:
        """What was told, but renewals."""
        told = await last_messages(self.js, "ALERTS", subjects.ALERTS, Alert, limit=50)
        return [alert for alert in told if alert.state != "updated" or alert.escalated]


@asynccontextmanager
async def watched(disk: Path) -> AsyncIterator[Watched]:
    port = take_port(0, "nats")
    url = f"nats://127.0.0.1:{port}"
    config = write_nats_config(disk, port, "u", "p", sync="always")
    server = ManagedProcess("nats", [nats_binary(), "-c", str(config)], os.environ, disk / "nats.log")
    await server.start()
    await wait_for_port(port)
    nc = await nats.connect(url, user="u", password="p", max_reconnect_attempts=-1, reconnect_time_wait=0.1)
    js = nc.jetstream()
    await js.add_stream(StreamConfig(name="S", subjects=["s.*"], max_bytes=-1))
    await js.add_stream(StreamConfig(name="ALERTS", subjects=[subjects.ALERTS], max_bytes=-1))
    await js.create_key_value(KeyValueConfig(bucket="open_alerts"))
    settings = NatsSettings(nats_url=url, nats_user="u", nats_password=SecretStr("p"))
    limits = DiskPressure(full_bytes=4 * MIB)
    watch = DiskWatch(disk, disk / "nats.log", server.restart, "n1", settings, limits=limits)
    bench = Watched(js, server, disk, watch)
    try:
        yield bench
    finally:
        if bench.watching is not None:
            bench.watching.cancel()
            await asyncio.wait([bench.watching])
        await nc.close()
        await server.stop()


@pytest.mark.nats
@pytest.mark.chaos
async def test_messages_are_confirmed_again_when_a_full_disk_has_room(small_disk: Path) -> None:
    async with watched(small_disk) as bench:
        bench.check()
        filler = small_disk / "filler"
        filler.write_bytes(b"x" * (shutil.disk_usage(small_disk).free - 24 * MIB))
        block = b"x" * (MIB // 2)
        for _ in range(100):
            if not await confirmed(bench.js, block):
                break
        assert not await confirmed(bench.js, block), "the disk was not filled"
        await asyncio.sleep(2.5)  # some looks at the full disk
        filler.unlink()
        await eventually(lambda: confirmed(bench.js, block), 30)
        assert bench.server.restarts == 1


@pytest.mark.nats
@pytest.mark.chaos
async def test_a_fill_that_no_look_saw_is_healed_and_told(small_disk: Path) -> None:
    async with watched(small_disk) as bench:
        assert await confirmed(bench.js, b"x" * 100)
        filler, since = bench.fill(), time.monotonic()
        while time.monotonic() - since < 1.0:
            with suppress(Error, APIError, OSError):
                await bench.js.publish("s.x", b"x" * 64_000, timeout=0.2)
        filler.unlink()
        assert not await confirmed(bench.js, b"x" * 1_000), "the server forgot the write error"
        # As if the fill fell between two looks: free space never tells of it, the server's words do.
        bench.check()
        room_at = time.monotonic()
        await eventually(lambda: confirmed(bench.js, b"x" * 1_000), 10)
        print(f"written again {time.monotonic() - room_at:.1f} s after there was room")

        async def told() -> bool:
            return [f"{a.state} {a.severity}" for a in await bench.alerts()] == ["opened critical", "resolved critical"]

        await eventually(told, 15)
        assert bench.server.restarts == 1

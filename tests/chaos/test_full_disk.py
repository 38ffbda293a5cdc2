"""A disk that was full and has room again is written to again, without anybody's help."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import nats
import pytest
from nats.errors import Error
from nats.js import JetStreamContext
from nats.js.api import StreamConfig
from nats.js.errors import APIError

from deploy.embedded.disk_watch import MIB, DiskLimits, watch_disk
from deploy.embedded.instance import take_port
from deploy.embedded.process import ManagedProcess
from deploy.embedded.servers import nats_binary, wait_for_port, write_nats_config
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


@pytest.mark.nats
@pytest.mark.chaos
async def test_messages_are_confirmed_again_when_a_full_disk_has_room(small_disk: Path) -> None:
    port = take_port(0, "nats")
    config = write_nats_config(small_disk, port, "u", "p", sync="always")
    server = ManagedProcess("nats", [nats_binary(), "-c", str(config)], os.environ, small_disk / "nats.log")
    await server.start()
    await wait_for_port(port)
    nc = await nats.connect(
        f"nats://127.0.0.1:{port}", user="u", password="p", max_reconnect_attempts=-1, reconnect_time_wait=0.1
    )
    js = nc.jetstream()
    await js.add_stream(StreamConfig(name="S", subjects=["s.*"], max_bytes=-1))
    limits = DiskLimits(full_bytes=4 * MIB)
    watching = asyncio.create_task(watch_disk(small_disk, server.restart, limits=limits))
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * (shutil.disk_usage(small_disk).free - 24 * MIB))
    block = b"x" * (MIB // 2)
    for _ in range(100):
        if not await confirmed(js, block):
            break
    assert not await confirmed(js, block), "the disk was not filled"
    await asyncio.sleep(2.5)  # two looks at the full disk
    filler.unlink()
    await eventually(lambda: confirmed(js, block), 30)
    assert server.restarts == 1
    watching.cancel()
    await nc.close()
    await server.stop()

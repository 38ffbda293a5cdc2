"""A cluster of three: streams, buckets and object stores get as many copies as are asked for, and never fewer."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import nats
import pytest
from nats.errors import Error
from nats.js import JetStreamContext
from nats.js.errors import APIError

from accelerator_autopilot.contracts import streams
from accelerator_autopilot.deploy.local.instance import take_port
from accelerator_autopilot.deploy.local.servers import nats_binary
from accelerator_autopilot.transport import stream_setup
from tests.support.waiting import eventually

pytestmark = [pytest.mark.nats, pytest.mark.timeout(90)]


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[JetStreamContext]:
    """Three servers with nothing on them."""
    ports, routes = [take_port(0, "nats") for _ in range(3)], [take_port(0, "nats") for _ in range(3)]
    others = ",".join(f"nats://127.0.0.1:{port}" for port in routes)
    servers = [
        subprocess.Popen(
            [
                nats_binary(), "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(tmp_path / f"n{number}"),
                "--name", f"n{number}", "--cluster_name", "c", "--cluster", f"nats://127.0.0.1:{route}",
                "--routes", others,
            ],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        for number, (port, route) in enumerate(zip(ports, routes, strict=True))
    ]  # fmt: skip
    nc = await nats.connect(
        [f"nats://127.0.0.1:{port}" for port in ports], max_reconnect_attempts=-1, reconnect_time_wait=0.1
    )
    js = nc.jetstream(timeout=2)

    async def elected() -> bool:
        try:
            await js.account_info()
        except (APIError, Error):
            return False
        return True

    await eventually(elected, 20)
    yield js
    await nc.close()
    for server in servers:
        server.kill()
        server.wait()


NAMES = ("JOBS", "LATER", "AUDIT", "KV_policy", "KV_leader", "OBJ_payloads", "OBJ_artifacts")


async def copies(js: JetStreamContext) -> list[int]:
    return [(await js.stream_info(name)).config.num_replicas or 1 for name in NAMES]


async def test_copies_of_everything_grow_and_never_shrink(
    cluster: JetStreamContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A few of each kind: to make them all takes a minute on a small machine.
    monkeypatch.setattr(streams, "STREAMS", [s for s in streams.STREAMS if s.name in NAMES])
    monkeypatch.setattr(streams, "BUCKETS", [b for b in streams.BUCKETS if f"KV_{b.bucket}" in NAMES])
    await stream_setup.ensure(cluster, 1)
    assert await copies(cluster) == [1] * len(NAMES)
    policy = await cluster.key_value("policy")
    await policy.put("fleet", b"{}")
    await stream_setup.ensure(cluster, 3)
    assert await copies(cluster) == [3] * len(NAMES)
    await stream_setup.ensure(cluster, 1)
    assert await copies(cluster) == [3] * len(NAMES)

    async def kept() -> bool:
        # Where a copy was added its leader may be elected anew just now.
        try:
            return (await policy.get("fleet")).value == b"{}"
        except (APIError, Error):
            return False

    await eventually(kept, 10)

"""Every service ends on SIGTERM within its grace, whatever its broker does, and asked twice at once."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx
import nats
import pytest

from accelerator_autopilot.client import AutopilotClient
from accelerator_autopilot.deploy.local.instance import take_port
from accelerator_autopilot.runtime.shutdown import EXIT_STUCK
from accelerator_autopilot.transport import stream_setup
from accelerator_autopilot.transport.settings import NatsSettings
from tests.conftest import NatsServer
from tests.support.waiting import eventually

pytestmark = [pytest.mark.nats, pytest.mark.timeout(150)]

SERVICES = (
    "telemetry agent", "telemetry recorder", "anomaly", "scheduler", "inference pool", "notifier", "gateway",
)  # fmt: skip
ENDS_WITHIN_S = 15.0


@asynccontextmanager
async def services(url: str, folder: Path) -> AsyncIterator[dict[str, tuple[asyncio.subprocess.Process, int]]]:
    """All services, each a process of its own, with the ports of their health."""
    keys = folder / "api_keys.json"
    keys.write_text("{}")
    started: dict[str, tuple[asyncio.subprocess.Process, int]] = {}
    try:
        for name in SERVICES:
            health, (module, *role) = take_port(0, "health"), name.split()
            environment = os.environ | {
                "AUTOPILOT_NATS_URL": url,
                "AUTOPILOT_HEALTH_PORT": str(health),
                "AUTOPILOT_GATEWAY_PORT": str(take_port(0, "gateway")),
                "AUTOPILOT_API_KEYS_FILE": str(keys),
                "AUTOPILOT_DATA_DIR": str(folder),
                "AUTOPILOT_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none",
                "AUTOPILOT_SIMULATE": "1",
                "AUTOPILOT_POOL_KINDS": json.dumps(["echo"]),
                "AUTOPILOT_STOP_TIMEOUT_S": "5",
            }
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", f"accelerator_autopilot.{module}", *role, env=environment,
                stdout=asyncio.subprocess.DEVNULL, stderr=(folder / f"{name.replace(' ', '-')}.log").open("wb"),
            )  # fmt: skip
            started[name] = process, health
        yield started
    finally:
        for process, _ in started.values():
            if process.returncode is None:
                process.kill()
                await process.wait()


async def all_tell(started: dict[str, tuple[asyncio.subprocess.Process, int]], *, connected: bool) -> None:
    """Wait until every service works, or until each says that no broker answers."""
    async with httpx.AsyncClient(trust_env=False) as http:

        async def read() -> bool:
            try:
                told = [(await http.get(f"http://127.0.0.1:{port}/readyz")).json() for _, port in started.values()]
            except httpx.HTTPError:
                return False
            if connected:
                return not any({"started", "nats", "workers"} & set(one["problems"]) for one in told)
            return all("nats" in one["problems"] for one in told)

        await eventually(read, 90, "all services tell their state")


async def end_all(started: dict[str, tuple[asyncio.subprocess.Process, int]]) -> dict[str, int | None]:
    """Ask all to end; the exit code of each, None of those that still run."""
    for process, _ in started.values():
        process.send_signal(signal.SIGTERM)
    codes = await asyncio.gather(*(ended(process, ENDS_WITHIN_S) for process, _ in started.values()))
    return dict(zip(started, codes, strict=True))


async def ended(process: asyncio.subprocess.Process, within_s: float) -> int | None:
    """Its exit code, or None when it still runs."""
    try:
        return await asyncio.wait_for(process.wait(), within_s)
    except TimeoutError:
        return None


@contextmanager
def absent_broker(kind: str) -> Iterator[str]:
    """The address of a broker where nothing listens, or of one that accepts and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if kind == "silent":
            listener.listen(100)
        yield f"nats://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("broker", ["nothing listens", "silent"])
async def test_services_end_that_never_met_their_broker(broker: str, tmp_path: Path) -> None:
    with absent_broker(broker) as url:
        async with services(url, tmp_path) as started:
            await all_tell(started, connected=False)
            assert await end_all(started) == dict.fromkeys(SERVICES, 0)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    made = NatsServer(tmp_path / "nats")
    await made.start()
    yield made
    made.thaw()
    made.kill()


@pytest.mark.parametrize("fault", ["killed", "frozen"])
async def test_services_end_that_lost_their_broker_and_no_job_is_lost(
    fault: str, server: NatsServer, tmp_path: Path
) -> None:
    connection = await nats.connect(server.url)
    await stream_setup.ensure(connection.jetstream())
    await connection.close()
    async with services(server.url, tmp_path) as started:
        await all_tell(started, connected=True)
        async with AutopilotClient(NatsSettings(nats_url=server.url), actor="tester") as client:
            short = await client.jobs.submit("echo", {"text": "x"})
            assert (await short.wait(20)).status == "succeeded"
            cut = await client.jobs.submit("echo", {"text": "x", "work_s": 2})
            await asyncio.sleep(0.5)
        server.kill() if fault == "killed" else server.freeze()
        assert await end_all(started) == dict.fromkeys(SERVICES, 0)
    if fault == "killed":
        await server.start()
    server.thaw()
    async with AutopilotClient(NatsSettings(nats_url=server.url), actor="tester") as client:
        assert (await client.jobs.wait(short.id, 20)).status == "succeeded"
        info = await client.js.stream_info("JOBS")
        assert info.state.messages == 1, f"{cut.id} was confirmed, and is run by whoever comes next"


STUCK = """
import asyncio, sys, time
from contextlib import asynccontextmanager
from accelerator_autopilot.runtime import health
from accelerator_autopilot.runtime.service import Service
from accelerator_autopilot.runtime.settings import ServiceSettings

health.LOOP_DEAD_S, health.CHECK_INTERVAL_S = 2.0, 0.2
service = Service("stuck", ServiceSettings(nats_url=sys.argv[1]))

async def block():
    if sys.argv[2] == "at once":
        time.sleep(60)
    await asyncio.sleep(60)

@asynccontextmanager
async def lifespan():
    async with service.running():
        service.supervise("block", block)
        print("up", flush=True)
        try:
            yield
        finally:
            print("asked", flush=True)
            await asyncio.sleep(60)

asyncio.run(service.app(lifespan).run())
"""


@asynccontextmanager
async def stuck(how: str, server: NatsServer) -> AsyncIterator[asyncio.subprocess.Process]:
    """A service that stands still `at once`, or `when asked` to end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", STUCK, server.url, how,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_a_process_whose_event_loop_stands_still_ends_by_itself(server: NatsServer) -> None:
    async with stuck("at once", server) as process:
        assert await ended(process, 30) == EXIT_STUCK


async def test_a_service_that_is_asked_twice_ends_at_once(server: NatsServer) -> None:
    async with stuck("when asked", server) as process:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"up\n"
        process.send_signal(signal.SIGTERM)
        assert await process.stdout.readline() == b"asked\n"
        process.send_signal(signal.SIGTERM)
        assert await ended(process, 3) == 0

"""Servers for tests: containers where Docker runs, else the embedded ones."""

from __future__ import annotations

import asyncio
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before transformers is imported: no test reaches for a hub

import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import asyncpg
import nats
import pytest
from nats.aio.client import Client
from pydantic import SecretStr

from accelerator_autopilot.client import AutopilotClient
from accelerator_autopilot.deploy.local.instance import take_port
from accelerator_autopilot.deploy.local.servers import EmbeddedPostgres, nats_binary, wait_for_port
from accelerator_autopilot.transport import stream_setup
from accelerator_autopilot.transport.settings import NatsSettings
from tests.support import skips


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where several processes share the tests, those that may take long go first: else one works alone at the end."""
    if hasattr(config, "workerinput"):
        items.sort(key=_allowed_s, reverse=True)


def _allowed_s(item: pytest.Item) -> float:
    marker = item.get_closest_marker("timeout")
    return float(marker.args[0]) if marker is not None and marker.args else 0.0


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Under AUTOPILOT_STRICT_SKIPS a skip for a reason that is not listed is a failure."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if not report.skipped or hasattr(report, "wasxfail") or not os.environ.get(skips.SETTING):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if not skips.allowed(reason):
        report.outcome, report.longrepr = "failed", f"{reason}: this skip is not in tests/allowed_skips.txt"


def docker_runs() -> bool:
    """Whether a Docker engine answers and is wanted for tests."""
    if os.environ.get("AUTOPILOT_TEST_CONTAINERS") == "0" or shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "info"], capture_output=True, check=False, timeout=10).returncode == 0


class NatsServer:
    """A nats-server that tests may kill and start again on the same store."""

    def __init__(self, folder: Path) -> None:
        self.port = take_port(0, "nats")
        self.url = f"nats://127.0.0.1:{self.port}"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        command = [nats_binary(), "-a", "127.0.0.1", "-p", str(self.port), "-js", "-sd", str(self._folder)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        await wait_for_port(self.port)

    def freeze(self) -> None:
        """Stop it without ending it: connections stay open and nothing is answered."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)
            # The signal is sent before it is obeyed: on a busy machine the server would answer a little longer.
            os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)

    def thaw(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@pytest.fixture
async def nats_server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    """A nats-server of this test's own."""
    server = NatsServer(tmp_path / "nats")
    await server.start()
    yield server
    server.kill()


@pytest.fixture
async def nc(nats_server: NatsServer) -> AsyncIterator[Client]:
    """A connection to a server with our streams."""
    connection = await nats.connect(nats_server.url, max_reconnect_attempts=-1, reconnect_time_wait=0.1)
    await stream_setup.ensure(connection.jetstream())
    yield connection
    await connection.close()


@pytest.fixture
async def client(nats_server: NatsServer, nc: Client) -> AsyncIterator[AutopilotClient]:
    """The client library on that server."""
    async with AutopilotClient(NatsSettings(nats_url=nats_server.url), actor="tester") as connected:
        yield connected


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The server that AUTOPILOT_TEST_DATABASE_URL names, TimescaleDB in a container, or the embedded one."""
    if url := os.environ.get("AUTOPILOT_TEST_DATABASE_URL"):
        yield url
        return
    if docker_runs():
        from testcontainers.postgres import PostgresContainer

        with PostgresContainer("timescale/timescaledb:2.25.1-pg17") as container:
            yield container.get_connection_url(driver=None)
        return
    folder = Path(tempfile.mkdtemp(prefix="autopilot-pg-"))
    folder.chmod(0o755)
    server = EmbeddedPostgres(folder / "data")
    asyncio.run(server.start())
    yield server.url
    asyncio.run(server.stop())
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def database_url(postgres_url: str) -> str:
    """An empty database of this test's own."""
    name = f"test_{uuid4().hex[:12]}"
    connection = await asyncpg.connect(postgres_url)
    await connection.execute(f"CREATE DATABASE {name}")
    await connection.close()
    head, _, options = postgres_url.partition("?")
    return f"{head.rsplit('/', 1)[0]}/{name}" + (f"?{options}" if options else "")


@pytest.fixture
def secret_url(database_url: str) -> SecretStr:
    """The same as a secret."""
    return SecretStr(database_url)

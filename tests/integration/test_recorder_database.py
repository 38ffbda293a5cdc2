"""A recorder whose database stands still, only reads or has a full disk: told in seconds, and nothing lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, urlsplit

import asyncpg
import httpx
import pytest
from nats.aio.client import Client
from nats.js import JetStreamContext
from pydantic import SecretStr

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.frames import encode
from accelerator_autopilot.deploy.local.instance import take_port
from accelerator_autopilot.telemetry.recorder import app as app_module
from accelerator_autopilot.telemetry.recorder.app import create_recorder
from accelerator_autopilot.telemetry.recorder.application import recorder as recorder_module
from accelerator_autopilot.telemetry.recorder.application.frame_writer import FrameWriter
from accelerator_autopilot.telemetry.settings import RecorderSettings
from accelerator_autopilot.transport.clock import utc_now
from tests.chaos.soak.proxy import LinkProxy, socket_target, tcp_target
from tests.conftest import NatsServer
from tests.support.apps import running
from tests.support.builders import frame
from tests.support.product import query
from tests.support.waiting import eventually

pytestmark = [pytest.mark.nats, pytest.mark.db, pytest.mark.timeout(120)]

FULL = """
CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100'; END $$;
CREATE TRIGGER full_disk BEFORE INSERT ON samples FOR EACH STATEMENT EXECUTE FUNCTION full_disk()
"""


class Recording:
    """A running recorder behind a link that can be stalled."""

    def __init__(self, url: str, link: LinkProxy, port: int) -> None:
        self.url, self.link, self._port = url, link, port

    async def problems(self) -> dict[str, str]:
        async with httpx.AsyncClient(trust_env=False) as http:
            told: dict[str, str] = (await http.get(f"http://127.0.0.1:{self._port}/readyz")).json()["problems"]
        return told

    async def metric(self, line: str) -> float:
        async with httpx.AsyncClient(trust_env=False) as http:
            text = (await http.get(f"http://127.0.0.1:{self._port}/metrics")).text
        return next((float(found.rsplit(" ", 1)[1]) for found in text.splitlines() if found.startswith(line)), 0.0)

    async def rows(self) -> int:
        return int((await query(self.url, "SELECT count(*) AS n FROM samples"))[0]["n"])

    async def execute(self, *statements: str) -> None:
        connection = await asyncpg.connect(self.url)
        for statement in statements:
            await connection.execute(statement)
        await connection.close()

    async def stall(self) -> None:
        self.link.set("stalled")

    async def go_on(self) -> None:
        self.link.set("fine")

    async def only_read(self) -> None:
        await self._mode("on")

    async def write_again(self) -> None:
        await self._mode("off")

    async def _mode(self, read_only: str) -> None:
        name = (await query(self.url, "SELECT current_database() AS name"))[0]["name"]
        await self.execute(
            "SET default_transaction_read_only = off",
            f"ALTER DATABASE {name} SET default_transaction_read_only = {read_only}",
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )

    async def fill(self) -> None:
        await self.execute(FULL)

    async def empty(self) -> None:
        await self.execute("DROP FUNCTION full_disk CASCADE")


@asynccontextmanager
async def proxied(url: str) -> AsyncIterator[tuple[LinkProxy, str]]:
    """A link that can be stalled, and the database's address through it."""
    parts = urlsplit(url)
    folder = parse_qs(parts.query).get("host")
    if folder:
        where = f"{folder[0]}/.s.PGSQL.{parts.port or 5432}"
        link = LinkProxy(socket_target(lambda: where))
    else:
        link = LinkProxy(tcp_target(parts.port or 5432))
    await link.start()
    user = f"{parts.username}:{parts.password}" if parts.password else parts.username
    yield link, f"postgresql://{user}@127.0.0.1:{link.port}{parts.path}"
    await link.stop()


@asynccontextmanager
async def recording(nats_server: NatsServer, url: str, timeout_s: float = 2) -> AsyncIterator[Recording]:
    async with proxied(url) as (link, through):
        port = take_port(0, "test")
        settings = RecorderSettings(
            nats_url=nats_server.url, database_url=SecretStr(through), health_port=port, database_timeout_s=timeout_s,
            frame_linger_s=0.01,
        )  # fmt: skip
        async with running(create_recorder(settings)):
            yield Recording(url, link, port)


async def publish(js: JetStreamContext, first: int, count: int) -> None:
    now = utc_now()
    for sequence in range(first, first + count):
        await js.publish(subjects.frames("n1"), encode(frame(start=now, sequence=sequence, node="n1")))
        await asyncio.sleep(0.002)
        now = utc_now()


FAULTS: dict[str, tuple[Callable[[Recording], Awaitable[None]], Callable[[Recording], Awaitable[None]], str]] = {
    "stands still": (Recording.stall, Recording.go_on, "database"),
    "only reads": (Recording.only_read, Recording.write_again, "database"),
    "disk full": (Recording.fill, Recording.empty, "writing TELEMETRY"),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_database_that_takes_no_writes_is_told_and_loses_nothing(
    fault: str, nats_server: NatsServer, nc: Client, database_url: str
) -> None:
    begin, end, condition = FAULTS[fault]
    js = nc.jetstream()
    async with recording(nats_server, database_url) as recorder:
        await publish(js, 1, 20)

        async def well() -> bool:
            return not await recorder.problems()

        await eventually(well, 30, "ready at first")
        await begin(recorder)
        at = asyncio.get_running_loop().time()
        await publish(js, 21, 100)

        async def told() -> bool:
            return condition in await recorder.problems()

        await eventually(told, 7)
        # Longer than a statement may take: a stuck write must end and be tried again.
        await asyncio.sleep(max(0.0, at + 8 - asyncio.get_running_loop().time()))
        assert await told()
        await end(recorder)

        async def written() -> bool:
            return await recorder.rows() == 120

        await eventually(written, 15)
        await eventually(well, 10)
        assert await recorder.metric("autopilot_task_restarts_total{") == 0


async def test_a_frame_recorder_that_stands_still_starts_again(
    nats_server: NatsServer, nc: Client, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "HANG_TIMEOUT_S", 3.0)
    run, runs = FrameWriter.run, 0

    async def stuck_once(*arguments: object) -> None:
        nonlocal runs
        runs += 1
        await (asyncio.Event().wait() if runs == 1 else run(*arguments))  # type: ignore[arg-type]

    monkeypatch.setattr(FrameWriter, "run", stuck_once)
    async with recording(nats_server, database_url) as recorder:
        await publish(nc.jetstream(), 1, 20)

        async def written() -> bool:
            try:
                return await recorder.rows() == 20
            except asyncpg.UndefinedTableError:
                return False

        await eventually(written, 30)
        assert await recorder.metric('autopilot_task_restarts_total{reason="hung",task="frames"}') == 1


async def test_a_recorder_that_starts_again_leaves_no_connection_behind(
    nats_server: NatsServer, nc: Client, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[asyncpg.Pool] = []
    connect = recorder_module.connect_pool

    async def remembered(dsn: str, **more: object) -> asyncpg.Pool:
        opened.append(await connect(dsn, **more))  # type: ignore[arg-type]
        return opened[-1]

    class FailsOnce(app_module.Partitions):
        def __init__(self, *arguments: object, **more: object) -> None:
            if len(opened) == 1:
                raise RuntimeError("once")
            super().__init__(*arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(recorder_module, "connect_pool", remembered)
    monkeypatch.setattr(app_module, "Partitions", FailsOnce)
    async with recording(nats_server, database_url) as recorder:
        await publish(nc.jetstream(), 1, 20)

        async def written() -> bool:
            return len(opened) == 2 and await recorder.rows() == 20

        await eventually(written, 30)
        assert opened[0].get_size() == 0
        assert opened[0].is_closing()

"""The embedded PostgreSQL ends within its time, whatever it is doing, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import signal
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from accelerator_autopilot.deploy.local import servers
from accelerator_autopilot.deploy.local.probes import postgres_lives
from accelerator_autopilot.deploy.local.servers import EmbeddedPostgres
from tests.support.waiting import eventually

pytestmark = pytest.mark.timeout(90)


@pytest.fixture
def folder() -> Iterator[Path]:
    """As root, PostgreSQL is another user, who may not pass through pytest's own folders."""
    with tempfile.TemporaryDirectory(prefix="autopilot-pg-", ignore_cleanup_errors=True) as made:
        Path(made).chmod(0o755)
        yield Path(made) / "data"


def those_on(folder: Path) -> list[psutil.Process]:
    """Servers on that folder, and their children."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if str(folder) in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                found += [process, *process.children(recursive=True)]
    return found


async def gone(family: list[psutil.Process]) -> None:
    await eventually(
        lambda: not [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE], 10, "all have ended"
    )


async def test_one_that_stands_still_with_its_children_is_killed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "STOP_WITHIN_S", 1.0)
    server = EmbeddedPostgres(folder)
    await server.start()
    family = those_on(folder)
    assert len(family) > 3
    for process in family:
        process.send_signal(signal.SIGSTOP)
    async with asyncio.timeout(10):
        await server.stop()
    await gone(family)


async def test_one_that_is_stopped_in_the_midst_of_its_start_is_not_left_over(folder: Path) -> None:
    server = EmbeddedPostgres(folder)
    starting = asyncio.create_task(server.start())
    await eventually(folder.exists, 10, "it starts")
    starting.cancel()
    with suppress(asyncio.CancelledError):
        await starting
    await server.stop()
    assert not those_on(folder)


async def test_one_that_stood_still_is_given_its_time_and_one_that_does_not_come_back_is_restarted_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accelerator_autopilot.deploy.local.probes.TIMEOUT_S", 0.3)
    monkeypatch.setattr(servers, "POSTGRES_DEAD_AFTER_S", 4.0)
    server = EmbeddedPostgres(folder)
    await server.start()
    watching = asyncio.create_task(server.run())
    try:
        await asyncio.sleep(1.0)  # it has been seen alive
        first = server.pid
        family = those_on(folder)
        for process in family:
            process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(2.0)
        for process in family:
            process.send_signal(signal.SIGCONT)
        await eventually(lambda: postgres_lives(server.socket_path), 10)
        assert (server.pid, server.restarts) == (first, 0)
        for process in those_on(folder):
            process.send_signal(signal.SIGSTOP)
        await eventually(lambda: server.restarts == 1, 40, "it is started anew")
        await eventually(lambda: postgres_lives(server.socket_path), 20)
        await asyncio.sleep(5.0)
        assert (server.restarts, server.running()) == (1, True)
    finally:
        watching.cancel()
        await server.stop()

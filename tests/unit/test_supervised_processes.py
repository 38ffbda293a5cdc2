"""What the embedded product does for its processes: restarts, signs of life, private and bounded logs, the disk."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from accelerator_autopilot.contracts.errors import SettingsError
from accelerator_autopilot.deploy.local import supervised_process
from accelerator_autopilot.deploy.local.instance import Instance, take_port
from accelerator_autopilot.deploy.local.liveness_deadlines import LivenessDeadline
from accelerator_autopilot.deploy.local.log_rotation import open_log, rotate
from accelerator_autopilot.deploy.local.probes import nats_lives, postgres_lives, service_lives
from accelerator_autopilot.deploy.local.servers import write_nats_config
from accelerator_autopilot.deploy.local.supervised_process import ManagedProcess
from accelerator_autopilot.deploy.local.traverse_permissions import TraversePermissions
from tests.support.waiting import eventually

SERVER = """
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
http.server.HTTPServer(("127.0.0.1", {port}), Handler).serve_forever()
"""


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ManagedProcess]:
    port = take_port(0, "test")
    command = [sys.executable, "-c", SERVER.format(port=port)]
    made = ManagedProcess(
        "server", command, os.environ, tmp_path / "s.log", probe=service_lives(port), dead_after_s=1.5
    )
    await made.start()
    await eventually(service_lives(port))
    yield made
    await made.stop()


async def test_a_frozen_process_is_killed_and_started_again(
    server: ManagedProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervised_process, "PROBE_INTERVAL_S", 0.1)
    await asyncio.sleep(2.4)  # one probe has to have seen it alive
    before = server.pid
    assert before is not None
    os.kill(before, signal.SIGSTOP)
    await eventually(lambda: server.restarts == 1 and server.pid not in {None, before}, 20)
    assert server.last_exit == -signal.SIGKILL


def test_a_process_is_given_its_time_to_start_to_answer_and_to_thaw() -> None:
    patience = LivenessDeadline.of(180.0, 30.0, 0.0)
    assert not any(patience.over(float(s), answered=False) for s in range(1, 180))
    assert patience.over(181.0, answered=False)
    patience.begin(181.0)
    assert not patience.over(190.0, answered=True)
    assert not any(patience.over(float(s), answered=False) for s in range(191, 220))
    assert patience.over(221.0, answered=False)


def test_while_the_watcher_itself_stood_still_nobody_was_silent() -> None:
    patience = LivenessDeadline.of(180.0, 30.0, 0.0)
    patience.over(1.0, answered=True)
    assert not patience.over(3601.0, answered=False), "the whole machine slept"
    assert not any(patience.over(3601.0 + s, answered=False) for s in range(1, 29))
    assert patience.over(3632.0, answered=False)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root opens folders for others")
class TestPassages:
    def test_folders_are_opened_for_passing_through_and_closed_at_the_end(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        closed, shared = tmp_path / "closed", tmp_path / "closed" / "shared"
        data = shared / "data"
        data.mkdir(parents=True)
        closed.chmod(0o700)
        shared.chmod(0o755)
        passages = TraversePermissions(data / "opened_folders.json")
        with caplog.at_level("INFO"), passages.opened(data / "postgres"):
            for folder in (closed, shared):
                folder.chmod(0o755)
        assert [mode(f) for f in (closed, shared)] == [0o711, 0o755]
        assert str(closed) in str(caplog.records[-1].__dict__["folders"])
        # A supervisor that was killed closes nothing; the next one knows all the same.
        again = TraversePermissions(data / "opened_folders.json")
        with again.opened(data / "postgres"):
            closed.chmod(0o755)
        again.close()
        assert [mode(f) for f in (closed, shared)] == [0o700, 0o755]
        assert not (data / "opened_folders.json").exists()

    def test_what_somebody_else_has_changed_since_stays(self, tmp_path: Path) -> None:
        closed = tmp_path / "closed"
        data = closed / "data"
        data.mkdir(parents=True)
        closed.chmod(0o700)
        passages = TraversePermissions(data / "opened_folders.json")
        with passages.opened(data):
            closed.chmod(0o755)
        closed.chmod(0o750)
        passages.close()
        assert mode(closed) == 0o750
        (data / "opened_folders.json").write_text('{"half')
        passages.close()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_a_restart_asked_for_ends_it_gently(server: ManagedProcess) -> None:
    before = server.pid
    await server.restart()
    await eventually(lambda: server.pid not in {None, before})
    assert server.last_exit == -signal.SIGTERM


async def test_a_process_that_cannot_be_started_for_now_is_tried_again(tmp_path: Path) -> None:
    command = tmp_path / "command"
    command.write_text("#!/bin/sh\nsleep 0.2\n")
    command.chmod(0o700)
    managed = ManagedProcess("m", [str(command)], os.environ, tmp_path / "m.log")
    await managed.start()
    away = command.rename(tmp_path / "away")
    await eventually(lambda: managed.restarts == 1)
    await asyncio.sleep(0.3)
    away.rename(command)
    await eventually(lambda: managed.pid is not None)
    await managed.stop()


async def test_one_that_is_stopped_while_it_starts_again_is_not_left_over(tmp_path: Path) -> None:
    """However its restart and the stop fall together."""
    started = tmp_path / "started"
    command = tmp_path / "command"
    command.write_text(f"#!/bin/sh\necho $$ >> {started}\n[ $(wc -l < {started}) = 1 ] || exec sleep 60\n")
    command.chmod(0o700)
    managed = ManagedProcess("m", [str(command)], os.environ, tmp_path / "m.log")
    began, spawn = asyncio.Event(), managed._start_process

    async def slowly() -> None:
        began.set()
        await asyncio.sleep(0.2)
        await spawn()

    await managed.start()
    managed._start_process = slowly  # type: ignore[method-assign]
    await began.wait()
    await managed.stop()
    assert managed.pid is None
    await asyncio.sleep(0.5)
    alive = [pid for pid in started.read_text().split() if Path(f"/proc/{pid}").exists()] if started.exists() else []
    assert not alive


async def test_who_accepts_but_never_answers_does_not_live(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("accelerator_autopilot.deploy.local.probes.TIMEOUT_S", 0.2)

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    listening = await asyncio.start_server(silent, "127.0.0.1", 0)
    on_disk = await asyncio.start_unix_server(silent, tmp_path / "socket")
    port = listening.sockets[0].getsockname()[1]
    assert not await service_lives(port)()
    assert not await nats_lives(port)()
    assert not await postgres_lives(str(tmp_path / "socket"))
    assert not await postgres_lives(str(tmp_path / "nothing"))
    listening.close()
    on_disk.close()


def test_logs_are_private_and_turn_over(tmp_path: Path) -> None:
    path = tmp_path / "s.log"
    path.write_text("")
    path.chmod(0o644)
    descriptor = open_log(path)
    for content in ("first\n", "second\n", "third\n"):
        os.write(descriptor, content.encode())
        assert rotate(path, max_bytes=3, kept=2)
    os.write(descriptor, b"now\n")
    os.close(descriptor)
    assert not rotate(path, max_bytes=100)
    found = {p.name: p.read_text() for p in tmp_path.iterdir()}
    assert found == {"s.log": "now\n", "s.log.1": "third\n", "s.log.2": "second\n"}
    assert {stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()} == {0o600}


def test_nobody_else_reads_the_folder_or_holds_its_lock(tmp_path: Path) -> None:
    instance = Instance(tmp_path / "data")
    instance.acquire()
    modes = {name: stat.S_IMODE((tmp_path / "data" / name).stat().st_mode) for name in (".", "logs", "lock")}
    instance.release()
    assert modes == {".": 0o711 if os.geteuid() == 0 else 0o700, "logs": 0o700, "lock": 0o600}


@pytest.mark.parametrize("sync", ["", "sometimes", "1s } #", "0s", "always\n"])
def test_a_sync_interval_that_nats_would_not_take_is_refused(tmp_path: Path, sync: str) -> None:
    with pytest.raises(SettingsError, match="--sync"):
        write_nats_config(tmp_path, 4222, "u", "p", sync=sync)

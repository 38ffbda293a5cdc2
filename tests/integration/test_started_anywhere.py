"""Processes of the product take their code from where it is installed, never from the folder they are started in."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from pathlib import Path

import pytest

from accelerator_autopilot.inference.pool.application.worker_process import WorkerProcess

pytestmark = pytest.mark.timeout(90)

SHADOWED = ("json", "logging", "nats", "pydantic", "re2", "numpy", "asyncpg", "accelerator_autopilot")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where modules lie that are called like libraries, and tell when they run."""
    for name in SHADOWED:
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write('{name} ')\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


async def test_a_worker_imports_nothing_from_the_current_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOPILOT_WORKER_TIMEOUT_S", "not a number")  # so that it ends soon
    worker = await WorkerProcess.start("w", "cpu-0", {}, lambda *_: None)
    code = await asyncio.wait_for(worker.process.wait(), 60)
    worker.close()
    assert not (folder / "ran").exists(), (folder / "ran").read_text()
    assert code == 2, "its settings are wrong"


def test_every_process_is_started_without_the_current_folder_on_its_path() -> None:
    root = Path(__file__).parents[2]
    files = [f for room in ("shared", "services", "deploy") for f in (root / room).rglob("*") if f.is_file()]
    files = [f for f in files if f.suffix == ".py" or f.name == "Dockerfile"]
    begun = {file: re.findall(r'(?:executable|"python"),\s*(?:#.*\s*)?"(-\w+)"', file.read_text()) for file in files}
    flags = {flag for found in begun.values() for flag in found}
    assert flags == {"-P", "-I"}, [file for file, found in begun.items() if {*found} - {"-P", "-I"}]


async def test_a_worker_whose_main_thread_is_stuck_ends_although_nobody_is_left_to_kill_it(tmp_path: Path) -> None:
    program = (
        "import accelerator_autopilot.inference.worker.app as app, ctypes\n"
        "app.HANG_TIMEOUT_S = 1\n"
        "app.end_by_itself_later()\n"
        "print('begun', flush=True)\n"
        "ctypes.PyDLL(None).sleep(600)\n"  # holds the interpreter's lock
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE, env=os.environ
    )
    try:
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), 60) == b"begun\n"
        assert await asyncio.wait_for(process.wait(), 20) == -signal.SIGALRM
    finally:
        if process.returncode is None:
            process.kill()

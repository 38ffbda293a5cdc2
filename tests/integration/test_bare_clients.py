"""The programs of docs/examples, which follow docs/reference/nats-protocol.md, where their runtimes are installed."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from accelerator_autopilot.client import AutopilotClient
from tests.conftest import NatsServer
from tests.support.worker import worker_process

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
Command = list[str]


def _python(_: Path) -> Command:
    return [sys.executable, str(EXAMPLES / "python" / "bare_jobs.py")]


def _javascript(folder: Path) -> Command:
    if shutil.which("npm") is None:
        pytest.skip("node and npm are not installed")
    for name in ("bare_jobs.mjs", "package.json"):
        shutil.copy(EXAMPLES / "javascript" / name, folder)
    install = ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--prefer-offline", "--silent"]
    _made(install, folder, "the npm package nats cannot be installed here")
    return ["node", str(folder / "bare_jobs.mjs")]


def _go(folder: Path) -> Command:
    if shutil.which("go") is None:
        pytest.skip("go is not installed")
    for file in (EXAMPLES / "go").iterdir():
        shutil.copy(file, folder)
    _made(["go", "mod", "tidy"], folder, "the Go module nats.go cannot be fetched here")
    _made(["go", "build", "-o", "bare_jobs", "."], folder, "the Go module nats.go cannot be built here")
    return [str(folder / "bare_jobs")]


def _made(command: Command, folder: Path, otherwise: str) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, timeout=60, capture_output=True)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        pytest.skip(otherwise)


@pytest.mark.parametrize("made", [_python, _javascript, _go], ids=["python", "javascript", "go"])
async def test_the_examples_do_what_is_told_of_bare_clients(
    nats_server: NatsServer, client: AutopilotClient, tmp_path: Path, made: Callable[[Path], Command]
) -> None:
    command = await asyncio.to_thread(made, tmp_path)

    async def ask(*arguments: str) -> dict[str, Any]:
        process = await asyncio.create_subprocess_exec(
            *command, nats_server.url, *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        out, err = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == 0, err.decode()
        answer: dict[str, Any] = json.loads(out or b"{}")
        return answer

    async with worker_process(nats_server.url, AUTOPILOT_POOL_KINDS='["echo"]'):
        for job_id in ("plain-1", "räder & 車.v1 x"):
            told = await ask("run", "echo", '{"text": "hä"}', job_id)
            assert (told["status"], told["output"], told["job_id"]) == ("succeeded", {"text": "hä"}, job_id)
            assert not told["duplicate"]
            assert (await ask("run", "echo", '{"text": "hä"}', job_id))["duplicate"]
            assert (await client.jobs.view(job_id)).state == "succeeded"
        failed = await ask("run", "echo", '{"text": "x", "fail": "permanently"}', "fails")
        assert (failed["status"], bool(failed["errors"][-1]["message"])) == ("failed", True)
        handle = await client.jobs.submit("echo", {"text": "long", "work_s": 30}, job_id="long one")
        await ask("cancel", handle.id)
        assert (await handle.wait(20)).status == "cancelled"


@pytest.mark.parametrize("made", [_python, _javascript, _go], ids=["python", "javascript", "go"])
async def test_examples_carry_what_is_too_large_for_a_message(
    nats_server: NatsServer, client: AutopilotClient, tmp_path: Path, made: Callable[[Path], Command]
) -> None:
    command = await asyncio.to_thread(made, tmp_path)
    text = "large " * 50_000
    async with worker_process(nats_server.url, AUTOPILOT_POOL_KINDS='["echo"]'):
        process = await asyncio.create_subprocess_exec(
            *command, nats_server.url, "run", "echo", "-", "large", stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        out, _ = await asyncio.wait_for(process.communicate(json.dumps({"text": text}).encode()), 60)
        # It came back the same way, too large for a message.
        stored = await client.js.get_last_msg("RESULTS", "results.large")
        assert json.loads(stored.data or b"")["output_ref"]
    assert json.loads(out)["output"] == {"text": text}


def test_the_examples_are_well_formed_also_where_they_cannot_run() -> None:
    compile((EXAMPLES / "python" / "bare_jobs.py").read_text(), "bare_jobs.py", "exec")
    if shutil.which("node"):
        subprocess.run(["node", "--check", str(EXAMPLES / "javascript" / "bare_jobs.mjs")], check=True)
    if shutil.which("gofmt"):
        told = subprocess.run(["gofmt", "-l", str(EXAMPLES / "go")], check=True, capture_output=True, text=True)
        assert told.stdout == "", "run gofmt"

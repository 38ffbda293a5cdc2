"""The product as a user starts it, and the ways in which starting goes wrong."""

from __future__ import annotations

import getpass
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest

from accelerator_autopilot.contracts.exit_codes import ExitCode
from tests.support.product import query
from tests.support.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

AUTOPILOT = [sys.executable, "-m", "accelerator_autopilot.cli.app"]


def autopilot(*arguments: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*AUTOPILOT, *arguments], capture_output=True, text=True, timeout=timeout_s, check=False,
        env=os.environ | {"COLUMNS": "200"},
    )  # fmt: skip


class Up:
    """`autopilot up` in the background."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [*AUTOPILOT, "up", "--data-dir", str(folder), "--nats-port", "0", "--gateway-port", "0"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.first_line = self.process.stdout.readline()

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(60)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    running = Up(tmp_path_factory.mktemp("up") / "data")
    yield running
    running.end()


def test_up_is_ready_within_15_seconds(up: Up) -> None:
    found = re.match(r"ready in (\d+\.\d) s", up.first_line)
    assert found, up.first_line
    assert float(found[1]) < 15


def test_a_second_up_on_the_same_folder_says_so_in_one_line(up: Up) -> None:
    second = autopilot("up", "--data-dir", str(up.folder), "--nats-port", "0", "--gateway-port", "0")
    assert second.returncode == ExitCode.CONFLICT
    assert "another instance runs" in second.stderr
    assert len(second.stderr.strip().splitlines()) == 1
    assert autopilot("status", "--data-dir", str(up.folder)).returncode == 0


def test_commands_show_the_fleet_and_run_jobs(up: Up, tmp_path: Path) -> None:
    folder = ["--data-dir", str(up.folder)]
    devices = autopilot("devices", *folder)
    assert "simulated" in devices.stdout, devices.stdout + devices.stderr
    text = tmp_path / "text.txt"
    text.write_text("A first sentence about power caps. A second one about queues. A third about heat in racks.")
    done = autopilot("submit", "echo", str(text), "--wait", *folder)
    assert json.loads(done.stdout) == {"text": text.read_text()}, done.stderr
    job = autopilot("submit", "echo", str(text), "--key", "k1", *folder).stdout.strip()
    assert autopilot("submit", "echo", str(text), "--key", "k1", *folder).stdout.strip() == job
    assert job in autopilot("jobs", *folder).stdout or autopilot("result", job, *folder).returncode == 0
    unknown = autopilot("result", "no-such-job", *folder)
    assert unknown.returncode == ExitCode.NOT_FOUND
    assert "no-such-job" in unknown.stderr
    assert autopilot("watch", "--seconds", "1", *folder).returncode == 0
    for listing in ("decisions", "alerts", "pools", "incidents", "risk", "silences", "subscriptions", "dead", "doctor"):
        plain, as_json = autopilot(listing, *folder), autopilot(listing, "--json", *folder)
        assert (plain.returncode, as_json.returncode) == (0, 0), plain.stderr + as_json.stderr
        first = next(iter(json.loads(as_json.stdout).values()))
        keys = plain.stdout.splitlines()[0].split("\t")
        assert all(list(row) == keys for row in first), listing


async def test_every_row_says_whose_it_is_and_who_caused_it(up: Up, tmp_path: Path) -> None:
    folder = ["--data-dir", str(up.folder)]
    text = tmp_path / "text.txt"
    text.write_text("some text")
    vision = subprocess.run(
        [*AUTOPILOT, "submit", "echo", str(text), "--wait", *folder], capture_output=True, text=True, timeout=60,
        check=False, env=os.environ | {"AUTOPILOT_PROJECT": "vision"},
    )  # fmt: skip
    assert vision.returncode == 0, vision.stderr
    pool = json.loads(autopilot("pools", "--json", *folder).stdout)["pools"][0]["pool"]
    assert autopilot("scale", pool, "2", *folder).returncode == 0
    url = json.loads((up.folder / "runtime.json").read_text())["database_url"]
    owners: dict[str, set[tuple[str, str]]] = {}
    for table, enough in (("devices", 4), ("jobs", 2), ("commands", 1), ("outcomes", 1), ("audit", 1)):
        sql = f"SELECT project, actor FROM {table}"
        rows = await eventually(lambda sql=sql, enough=enough: _at_least(url, sql, enough), 20, table)
        owners[table] = {(row["project"], row["actor"]) for row in rows}
    user = getpass.getuser()
    assert owners["devices"] == {("default", "agent")}
    assert {("vision", user), ("default", user)} <= owners["jobs"]
    assert ("default", user) in owners["commands"] & owners["outcomes"]
    assert all(project and actor for found in owners.values() for project, actor in found), owners


async def _at_least(url: str, sql: str, enough: int) -> list[asyncpg.Record]:
    rows = await query(url, sql)
    return rows if len(rows) >= enough else []


def test_a_shell_completes_names_that_the_server_knows(up: Up) -> None:
    for words, wanted in (
        ("autopilot scale de", "default"),
        ("autopilot submit ec", "echo"),
        ("autopilot cap s", "sim-"),
    ):
        position = str(len(words.split(" ")) - 1)
        environment = {"COMP_WORDS": words, "COMP_CWORD": position, "_AUTOPILOT_COMPLETE": "complete_bash"}
        done = subprocess.run(
            AUTOPILOT, capture_output=True, text=True, timeout=60, check=False,
            env=os.environ | environment | {"AUTOPILOT_DATA_DIR": str(up.folder)},
        )  # fmt: skip
        assert wanted in done.stdout, done.stderr


def test_the_scheduler_is_steered_explained_and_played_over_the_past(up: Up, tmp_path: Path) -> None:
    folder = ["--data-dir", str(up.folder)]
    changed = autopilot("policy", "--pool", "default", "--ceiling", "3", "--wait-s", "20", *folder)
    assert json.loads(changed.stdout)["pools"]["default"]["ceiling"] == 3, changed.stderr
    wrong = autopilot("policy", "--mode", "sometimes", *folder)
    assert wrong.returncode == ExitCode.USAGE
    assert "--mode" in wrong.stderr
    lines = tmp_path / "jobs.jsonl"
    lines.write_text("".join(json.dumps({"text": str(n), "work_s": 0.05}) + "\n" for n in range(60)))
    batch = autopilot("map", "echo", str(lines), "--lines", *folder).stdout.strip()
    assert autopilot("batch", batch, *folder).returncode == 0
    explained = autopilot("explain", *folder)
    assert "\nreserve\t" in explained.stdout, explained.stderr
    assert "queue_lag" in explained.stdout
    assert autopilot("recommendations", *folder).returncode == 0
    missing = autopilot("approve", "no-such-advice", *folder)
    assert (missing.returncode, "no-such-advice" in missing.stderr) == (ExitCode.NOT_FOUND, True)
    until = time.monotonic() + 30
    while True:
        played = autopilot("whatif", *folder)
        found = re.search(r"^static\t(\d+)\t", played.stdout, re.MULTILINE)
        if (found and int(found[1]) >= 60) or time.monotonic() > until:
            break
    assert found, played.stdout + played.stderr
    assert int(found[1]) >= 60
    assert autopilot("analyse", *folder).returncode == 0
    page = tmp_path / "week.html"
    assert autopilot("report", "--out", str(page), *folder).returncode == 0
    assert "<h1>Energy and service</h1>" in page.read_text(encoding="utf-8")


def test_sigterm_leaves_no_process_behind(tmp_path: Path) -> None:
    running = Up(tmp_path / "data")
    family = running.children()
    assert len(family) >= 9, "nats, seven services and a ready worker"
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(60) == 0
    _, alive = psutil.wait_procs(family, timeout=5)
    assert not alive, alive
    assert not [p for p in psutil.process_iter(["cmdline"]) if str(running.folder) in " ".join(p.info["cmdline"] or [])]


def test_a_killed_supervisor_leaves_a_folder_that_starts_again(tmp_path: Path) -> None:
    first = Up(tmp_path / "data")
    first.process.kill()
    first.process.wait()
    second = Up(tmp_path / "data")
    try:
        assert second.first_line.startswith("ready"), second.first_line
    finally:
        second.end()


def test_a_taken_port_is_one_clear_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = autopilot("up", "--data-dir", str(tmp_path / "data"), "--nats-port", str(port))
    assert done.returncode == ExitCode.CONFLICT
    assert done.stderr.strip() == f"error: port {port} for nats is taken; choose another with --nats-port"


def test_a_folder_that_cannot_be_written_is_one_clear_line() -> None:
    done = autopilot("up", "--data-dir", "/proc/nowhere")
    assert done.returncode == ExitCode.USAGE
    assert "cannot write to the data folder" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_product_that_does_not_run_is_one_clear_line(tmp_path: Path) -> None:
    done = autopilot("devices", "--data-dir", str(tmp_path))
    assert done.returncode == ExitCode.UNREACHABLE
    assert "no instance runs on" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_broker_that_is_away_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOPILOT_NATS_URL", "nats://127.0.0.1:1")
    done = autopilot("devices")
    assert done.returncode == ExitCode.UNREACHABLE
    assert done.stderr.startswith("error: no NATS server answers at nats://127.0.0.1:1")
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr

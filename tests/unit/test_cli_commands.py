"""Commands of the command line without a server: help, examples, exit codes, suggestions."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import pytest
import typer
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js.errors import NotFoundError as NoStream
from typer.testing import CliRunner

from accelerator_autopilot.cli import session
from accelerator_autopilot.cli.app import COMMANDS, app
from accelerator_autopilot.cli.commands import fleet_policy, scheduling
from accelerator_autopilot.cli.commands.product import process_rows
from accelerator_autopilot.cli.registration import Command
from accelerator_autopilot.client.fleet import Decision
from accelerator_autopilot.contracts.errors import (
    AutopilotError,
    BusyError,
    ConflictError,
    InvalidInputError,
    JobFailedError,
    MalformedMessageError,
    NotFoundError,
    SettingsError,
    UnavailableError,
)
from accelerator_autopilot.contracts.exit_codes import ExitCode, exit_code
from accelerator_autopilot.contracts.messages.commands import COMMAND_KINDS, DecisionRecord, FleetPolicy

ROOT = Path(__file__).resolve().parents[2]
NOW = datetime(2026, 1, 1, tzinfo=UTC)
NAMES = [c.name for c in COMMANDS]


def autopilot(*arguments: str, **environment: str) -> Any:
    return CliRunner().invoke(app, arguments, env={"AUTOPILOT_NATS_URL": None, "NO_COLOR": None, **environment})


class TestHelp:
    @pytest.mark.parametrize("command", COMMANDS, ids=NAMES)
    def test_every_command_says_what_it_does_with_an_example(self, command: Command) -> None:
        said = autopilot(command.name, "--help")
        assert said.exit_code == 0, said.output
        assert re.search(rf"Example:\n +{re.escape(command.example)}\n?$", said.output)
        for option in ("--json", "--no-color"):
            assert option in said.output
        assert not re.search(r"[─│╭]", said.output), "no boxes"
        assert max(map(len, said.output.splitlines())) <= 80 or len(command.example) > 74

    @pytest.mark.parametrize("command", COMMANDS, ids=NAMES)
    def test_every_option_and_argument_is_explained(self, command: Command) -> None:
        for parameter in command.load().params:
            assert (getattr(parameter, "help", None) or "").rstrip().endswith((".", "?")), parameter.name

    @pytest.mark.parametrize("command", COMMANDS, ids=NAMES)
    def test_every_example_is_understood(self, command: Command, tmp_path: Path) -> None:
        program, name, *arguments = shlex.split(command.example)
        assert (program, name) == ("autopilot", command.name)
        command.load().make_context(name, arguments)

    def test_the_first_page_names_all_in_one_line_each(self) -> None:
        said = autopilot("--help").output
        for command in COMMANDS:
            assert re.search(rf"^  {command.name} +{re.escape(command.summary)}$", said, re.MULTILINE)

    def test_the_first_page_is_there_before_anybody_waits(self) -> None:
        code = "import sys, accelerator_autopilot.cli.app as a\ntry: a.app(['--help'])\nexcept SystemExit: pass\n"
        code += "print([m for m in ('nats', 'pydantic', 'numpy', 'rich', 'faststream') if m in sys.modules])"
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
        assert ran.stdout.rstrip().endswith("[]")

    def test_the_version(self) -> None:
        assert re.match(r"autopilot", autopilot("--version").output)

    @pytest.mark.parametrize(
        ("typed", "meant"), [(["drian"], "'drain'"), (["decision"], "'decisions'"), (["drain", "x", "--jsn"], "--json"),
                             (["cap", "x", "--lease"], "--lease-s")],
    )  # fmt: skip
    def test_what_nearly_is_a_command_or_option_is_suggested(self, typed: list[str], meant: str) -> None:
        said = autopilot(*typed)
        assert said.exit_code == ExitCode.USAGE
        assert meant in said.output


class TestExitCodes:
    @pytest.mark.parametrize(
        ("error", "code"),
        [(InvalidInputError("a", 1, "b"), 2), (MalformedMessageError("a", 1, "b"), 2), (SettingsError("x"), 2),
         (UnavailableError("x"), 3), (NotFoundError("x"), 4), (ConflictError("x"), 5), (BusyError("x", 1), 6),
         (TimeoutError(), 7), (NatsTimeoutError(), 3), (NoStream(), 3),
         (JobFailedError("x"), 1), (AutopilotError("x"), 1),
         (PermissionError(13, "Permission denied", "/x"), 1), (KeyboardInterrupt(), 130)],
    )  # fmt: skip
    def test_each_kind_of_error_has_its_own(
        self, error: BaseException, code: int, capsys: pytest.CaptureFixture[str]
    ) -> None:
        async def work() -> None:
            raise error

        with pytest.raises(typer.Exit) as ended:
            session.run(work)
        assert ended.value.exit_code == code
        said = capsys.readouterr()
        assert said.out == ""
        assert len(said.err.splitlines()) == (0 if code == ExitCode.INTERRUPTED else 1)

    def test_every_error_of_ours_has_one(self) -> None:
        def below(kind: type[AutopilotError]) -> list[type[AutopilotError]]:
            return [kind, *(k for part in kind.__subclasses__() for k in below(part))]

        for kind in below(AutopilotError):
            if kind.__module__.endswith("contracts.errors"):
                made = kind.__new__(kind)
                assert exit_code(made) in set(ExitCode)

    def test_where_nothing_runs(self, tmp_path: Path) -> None:
        for command in ("devices", "status", "down", "whatif", "explain"):
            said = autopilot(command, "--data-dir", str(tmp_path))
            assert (said.exit_code, "no instance runs on" in said.stderr) == (ExitCode.UNREACHABLE, True), command

    def test_where_nobody_listens(self) -> None:
        said = autopilot("pools", AUTOPILOT_NATS_URL="nats://127.0.0.1:1")
        assert said.exit_code == ExitCode.UNREACHABLE
        assert said.stderr.count("\n") == 1

    @pytest.mark.parametrize(
        "arguments",
        [["cap", "gpu-0", "-5"], ["scale", "default"], ["policy", "--mode", "sometimes"], ["policy", "--floor", "2"],
         ["analyse", "--from", "yesterday"], ["silence", "--start", "soon"], ["submit"], ["driver", "drop"],
         ["key", "admin", "--user", "pool"], ["subscribe", "http://x", "--template", "/no/such/file"],
         ["submit", "echo", "/no/such/file"]],
    )  # fmt: skip
    def test_what_is_typed_wrongly(self, arguments: list[str]) -> None:
        assert autopilot(*arguments).exit_code == ExitCode.USAGE

    def test_a_pipe_that_ends_early_is_no_traceback(self) -> None:
        command = f"{shlex.quote(sys.executable)} -m accelerator_autopilot.cli.app --help | true"
        ran = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, cwd=ROOT)
        assert "Traceback" not in ran.stderr


def record(number: int, command: str | None) -> DecisionRecord:
    return DecisionRecord(
        id=f"d{number}", pool="p", at=NOW, autonomy="act", seen={}, considered=[],
        wanted=1, allowed=1 if command else None, reason="backlog", explanation="", command_id=command,
    )  # fmt: skip


class TestExplain:
    def test_without_an_id_it_is_the_newest_that_changed_something(self) -> None:
        records = [record(1, "c1"), record(2, "c2"), record(3, None), record(4, None)]
        assert scheduling.newest_change(records).id == "d2"

    def test_else_the_newest(self) -> None:
        assert scheduling.newest_change([record(1, None), record(2, None)]).id == "d2"

    def test_there_may_be_none(self) -> None:
        with pytest.raises(NotFoundError, match="has not decided anything yet"):
            scheduling.newest_change([])


class TestDecisions:
    BASE: ClassVar[dict[str, Any]] = {"id": "c", "issuer": "scheduler", "reason": "r", "at": NOW, "expires_at": NOW}

    @pytest.mark.parametrize(
        ("kind", "fields", "shown"),
        [("scale", {"pool": "p", "replicas": 0}, "scale 0"), ("scale", {"pool": "p", "replicas": 3}, "scale 3"),
         ("power", {"node": "n", "device": "d", "cap_w": 200}, "power 200 W"),
         ("power", {"node": "n", "device": "d", "cap_w": 200, "clock_mhz": 900}, "power 200 W, 900 MHz"),
         ("power", {"node": "n", "device": "d"}, "power default"),
         ("drain", {"node": "n", "device": "d", "action": "cordon"}, "cordon"),
         ("batch", {"pool": "p", "delay_s": 0.25}, "batch 0.25 s")],
    )  # fmt: skip
    def test_each_says_what_was_to_be_done(self, kind: str, fields: dict[str, Any], shown: str) -> None:
        command = COMMAND_KINDS[kind].model_validate(self.BASE | fields)
        row = scheduling.decision_row(Decision(command=command, kind=kind, target="t"))
        (text,) = (c.text(row) for c in scheduling.DECISIONS.columns if c.key == "command" and c.text)
        assert (text, row["status"]) == (shown, "pending")


class TestPolicy:
    def test_only_what_is_given_changes(self) -> None:
        now = FleetPolicy(mode="advise")
        wanted = fleet_policy.changed(now, None, {"power": "off"}, "p", {"ceiling": 7, "autonomy": "act"})
        assert (wanted.mode, wanted.power, wanted.pool("p").ceiling) == ("advise", "off", 7)
        assert wanted.pool("p").floor == now.pool("p").floor

    @pytest.mark.parametrize("content", ["{", '{"mode": "sometimes"}', None])
    def test_a_file_that_holds_none_is_a_wrong_setting(self, content: str | None, tmp_path: Path) -> None:
        file = tmp_path / "policy.json"
        if content is not None:
            file.write_text(content)
        with pytest.raises(typer.Exit) as ended:
            fleet_policy.changed(FleetPolicy(), file, {}, None, {})
        assert ended.value.exit_code == ExitCode.USAGE


def test_a_process_is_ready_or_says_why_not() -> None:
    processes = {"b": {"pid": 2, "restarts": 0}, "a": {"pid": None, "restarts": 3}, "c": {"pid": 4, "restarts": 0}}
    rows = process_rows(processes, {"c": "bus: no answer", "b": ""})
    assert [(row["process"], row["state"]) for row in rows] == [
        ("a", "not running"),
        ("b", "ready"),
        ("c", "bus: no answer"),
    ]


def completed(words: str, folder: Path, **environment: str) -> list[str]:
    """What bash is given for the last word."""
    environment |= {
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
        "_AUTOPILOT_COMPLETE": "complete_bash",
    }
    ran = subprocess.run(
        [sys.executable, "-m", "accelerator_autopilot.cli.app"], capture_output=True, text=True, check=False,
        env=os.environ | {"AUTOPILOT_DATA_DIR": str(folder)} | environment,
    )  # fmt: skip
    assert ran.stderr == ""
    return ran.stdout.split()


class TestCompletion:
    def test_commands_and_choices(self, tmp_path: Path) -> None:
        assert completed("autopilot dr", tmp_path) == ["driver", "drain"]
        assert completed("autopilot policy --mode a", tmp_path) == ["advise", "approve", "act"]

    def test_names_without_a_server_are_none(self, tmp_path: Path) -> None:
        assert completed("autopilot cap ", tmp_path) == []

    async def test_a_server_that_stands_still_is_given_up(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from accelerator_autopilot.cli import name_completions

        async def nothing(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await asyncio.sleep(30)
            writer.close()

        ended: list[int] = []
        monkeypatch.setattr(name_completions.os, "_exit", ended.append)
        server = await asyncio.start_server(nothing, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        monkeypatch.setenv("AUTOPILOT_NATS_URL", f"nats://127.0.0.1:{port}")
        context = typer.Context(typer.main.get_command(app))
        await asyncio.to_thread(name_completions.pools, context)
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert await asyncio.to_thread(name_completions.pools, context) == []
        assert loop.time() - began < 1.5, "the budget, with room for a busy machine"
        assert name_completions.BUDGET_S + name_completions.GIVE_UP_S < 0.5
        server.close()

    def test_a_shell_installs_it(self, tmp_path: Path) -> None:
        environment = os.environ | {"HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
        command = [sys.executable, "-m", "accelerator_autopilot.cli.app", "--install-completion", "bash"]
        ran = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert ran.returncode == 0, ran.stderr
        scripts = list(tmp_path.rglob("*autopilot*"))
        assert scripts
        assert "_AUTOPILOT_COMPLETE" in scripts[0].read_text()

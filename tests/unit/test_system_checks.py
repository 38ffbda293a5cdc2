"""What `autopilot doctor` says of a machine: only what holds."""

from __future__ import annotations

import socket
from pathlib import Path

import pynvml
import pytest
from typer.testing import CliRunner

from accelerator_autopilot.cli import system_checks as checks
from accelerator_autopilot.cli.app import app
from accelerator_autopilot.cli.commands import doctor
from accelerator_autopilot.cli.system_checks import Check, Gpus
from accelerator_autopilot.contracts.exit_codes import ExitCode
from accelerator_autopilot.runtime.privilege_drop import ADVICE
from tests.support.fake_nvml import FakeNvml

H100 = "NVIDIA H100 80GB HBM3"


def by_name(found: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in found}


class TestGpus:
    def test_where_there_is_none_nothing_is_ok(self) -> None:
        found = by_name(list(checks.gpu_checks(Gpus(problem="no driver"), driver=False, root=True)))
        assert {c.state for c in found.values()} == {checks.NOT_APPLICABLE}

    def test_a_driver_that_does_not_answer_is_told_with_what_to_do(self) -> None:
        found = by_name(list(checks.gpu_checks(Gpus(problem="version mismatch"), driver=True, root=True)))
        assert (found["GPUs"].state, found["power caps"].state) == (checks.WARNING, checks.NOT_APPLICABLE)
        assert "version mismatch" in found["GPUs"].detail
        assert found["GPUs"].advice

    @pytest.mark.parametrize(
        ("with_limits", "root", "state"),
        [(2, True, checks.OK), (2, False, checks.WARNING), (0, True, checks.NOT_APPLICABLE), (1, True, checks.OK)],
    )
    def test_power_can_be_capped_where_a_limit_can_be_set_by_root(
        self, with_limits: int, root: bool, state: str
    ) -> None:
        found = by_name(list(checks.gpu_checks(Gpus((H100, H100), with_limits), driver=True, root=root)))
        assert (found["GPUs"].state, found["GPUs"].detail) == (checks.OK, f"2 x {H100}")
        assert found["power caps"].state == state
        assert bool(found["power caps"].advice) is (state == checks.WARNING)

    def test_nvml_is_asked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fake = FakeNvml()
        fake.install(monkeypatch)
        assert len(checks.query_gpus().names) == 1
        fake.error = pynvml.NVML_ERROR_DRIVER_NOT_LOADED
        assert checks.query_gpus().problem


class TestPackages:
    def test_what_is_missing_is_named_with_its_extras(self) -> None:
        check = checks.package_check(["torch", "transformers", "asyncpg"], needed=True)
        assert check.state == checks.FAILED
        assert check.advice == "pip install 'accelerator-autopilot[inference,recorder]'"

    def test_a_client_of_a_server_elsewhere_needs_none(self) -> None:
        assert checks.package_check(["torch"], needed=False).state == checks.NOT_APPLICABLE

    def test_all_are_there(self) -> None:
        assert checks.absent_distributions() == []
        assert checks.package_check([], needed=True).state == checks.OK


class TestUser:
    @pytest.mark.parametrize(
        ("who", "state"),
        [("user 1000, who starts them", checks.OK), (f"root (it cannot); {ADVICE}", checks.WARNING),
         ("nobody: they do not start (it cannot)", checks.FAILED)],
    )  # fmt: skip
    def test_root_is_a_warning(self, who: str, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(checks, "runs_as", lambda: who)
        check = checks.user_check()
        assert check.state == state
        assert check.detail.count(ADVICE) == 0
        assert check.advice == ("" if state == checks.OK else ADVICE)


class TestFolder:
    @pytest.mark.parametrize(("free_gib", "state"), [(500.0, checks.OK), (10.0, checks.WARNING), (0.5, checks.FAILED)])
    def test_room_on_the_disk(
        self, free_gib: float, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(checks.shutil, "disk_usage", lambda _: type("", (), {"free": free_gib * 2**30}))
        folder, disk = checks.folder_checks(tmp_path / "not" / "yet" / "there")
        assert (folder.state, disk.state) == (checks.OK, state)

    def test_a_folder_that_cannot_be_made(self) -> None:
        folder, _ = checks.folder_checks(Path("/proc/nowhere"))
        assert folder.state == checks.FAILED or "proc" in folder.detail


async def test_without_an_instance_its_ports_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(checks, "PORTS", {"nats": port})
        idle, used = await checks.instance_checks(tmp_path)
    assert (idle.state, used.state) == (checks.NOT_APPLICABLE, checks.WARNING)
    assert "--nats-port" in used.advice


@pytest.mark.parametrize(("state", "code"), [(checks.OK, 0), (checks.WARNING, 0), (checks.FAILED, 1)])
def test_only_what_keeps_the_product_from_starting_fails(
    state: checks.State, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_local", lambda _: [Check("one", state, "detail", "advice")])
    monkeypatch.delenv("AUTOPILOT_NATS_URL", raising=False)
    assert CliRunner().invoke(app, ["doctor", "--data-dir", str(tmp_path)]).exit_code == code


def test_a_server_elsewhere_that_does_not_answer_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_local", lambda _: [])
    monkeypatch.setenv("AUTOPILOT_NATS_URL", "nats://127.0.0.1:1")
    said = CliRunner().invoke(app, ["doctor", "--data-dir", str(tmp_path)])
    assert said.exit_code == ExitCode.FAILED
    assert "AUTOPILOT_NATS_URL" in said.output

"""What root starts is root no more; each case is a process of its own, for none comes back from it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from accelerator_autopilot.contracts.errors import SettingsError
from accelerator_autopilot.deploy.local.instance import Instance
from accelerator_autopilot.runtime import privilege_drop
from accelerator_autopilot.runtime.privilege_drop import OWN_ID, Identity, Needs, identity, socket_folders

ROOT = Path(__file__).parents[2]
NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")

# The interpreter of a developer often lies under /root: what is loaded before still runs afterwards.
SETTLED = """
import ctypes, json, os, signal, sys
from pathlib import Path
from accelerator_autopilot.runtime import privilege_drop as privileges
from accelerator_autopilot.runtime.json_logs import setup_logging
from accelerator_autopilot.runtime.settings import ServiceSettings, load
setup_logging("test", "INFO")
folder = Path(sys.argv[1])
"""
DROP = """
privileges.out_of_reach = lambda *_: ""
libc = ctypes.CDLL(None)
libc.prctl(1, signal.SIGTERM, 0, 0, 0)
needs = privileges.Needs(
    own=(folder / "own",), read=(folder / "keys.json", folder / "model"), join=(folder / "socket",)
)
privileges.drop_privileges(load(ServiceSettings), needs)
def refused(call, *arguments):
    try:
        call(*arguments)
    except PermissionError:
        return True
    return False
death = ctypes.c_int()
libc.prctl(2, ctypes.byref(death), 0, 0, 0)
status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
(folder / "own" / "old" / "file").write_text("ours")
(folder / "model" / "model.safetensors").read_bytes()
(folder / "home" / "new").touch()
print(json.dumps({
    "ids": [*os.getresuid(), *os.getresgid()], "groups": os.getgroups(), "death": death.value,
    "held": {name: status[name].strip().strip("0") for name in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb")},
    "no_new_privs": status["NoNewPrivs"].strip(), "keys": (folder / "keys.json").read_text(),
    "home": [os.environ["HOME"], "XDG_CACHE_HOME" in os.environ], "new": oct((folder / "home" / "new").stat().st_mode),
    "refused": [
        refused(os.setuid, 0), refused(os.setgroups, [0]), refused(open, folder / "secret"),
        refused(open, folder / "model" / "id_ed25519"),
        refused(open, folder / "keys.json", "a"), refused(open, "/proc/1/environ"), refused(os.listdir, folder),
    ],
}))
"""
STAY = """
sys.executable = str(folder / "python")
privileges.drop_privileges(load(ServiceSettings))
print(json.dumps({"uid": os.geteuid(), "home": os.environ.get("HOME")}))
"""
NOT_ROOT = """
os.setresuid(65534, 65534, 65534)
privileges.drop_privileges(load(ServiceSettings))
print(json.dumps(os.geteuid()))
"""


def _run(folder: Path, program: str, run_as: str = "auto") -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", ""))),
        "AUTOPILOT_RUN_AS": run_as, "AUTOPILOT_DATA_DIR": str(folder), "XDG_CACHE_HOME": "/x",
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, "-c", SETTLED + program, str(folder)],
        env=environment, capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users can pass through: each start of pytest shuts the one above its own."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)
        yield Path(folder)


def _filled(folder: Path) -> None:
    (folder / "own" / "old").mkdir(parents=True)
    (folder / "own" / "old" / "file").write_text("root's")
    for name in ("secret", "keys.json", "socket"):
        (folder / name).write_text("{}")
        (folder / name).chmod(0o600)
    os.chown(folder / "socket", 0, 4242)
    # As safetensors leaves weights that root saves.
    (folder / "model").mkdir(mode=0o755)
    (folder / "model" / "model.safetensors").touch(mode=0o600)
    (folder / "model" / "id_ed25519").touch(mode=0o600)


@NEEDS_ROOT
@pytest.mark.parametrize("run_as", ["auto", "61234:61235"])
def test_what_root_starts_has_no_right_of_roots_and_gets_none_back(open_folder: Path, run_as: str) -> None:
    _filled(open_folder)
    ended = _run(open_folder, DROP, run_as)
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout)
    who = identity(run_as)
    assert who is not None
    assert found["ids"] == [who.uid] * 3 + [who.gid] * 3
    assert set(found["groups"]) == {*who.groups, 4242}
    assert not any(found["held"].values())
    assert found["no_new_privs"] == "1"
    assert found["refused"] == [True] * 7
    assert found["keys"] == "{}"
    assert found["death"] == 15  # it still ends with its supervisor
    assert found["home"] == [str(open_folder / "home"), False]
    assert found["new"] == "0o100600"
    assert "root privileges dropped" in ended.stderr
    assert (open_folder / "secret").stat().st_uid == 0


@NEEDS_ROOT
def test_what_a_link_points_at_is_given_to_nobody(open_folder: Path) -> None:
    _filled(open_folder)
    (open_folder / "own" / "link").symlink_to(open_folder / "secret")
    (open_folder / "keys.json").unlink()
    (open_folder / "keys.json").symlink_to(open_folder / "secret")
    before = (open_folder / "secret").stat()
    _run(open_folder, DROP)
    after = (open_folder / "secret").stat()
    assert (after.st_uid, after.st_gid, after.st_mode) == (before.st_uid, before.st_gid, before.st_mode)


@NEEDS_ROOT
def test_where_the_interpreter_is_out_of_reach_it_stays_root_and_says_so(tmp_path: Path) -> None:
    ended = _run(tmp_path, STAY)
    assert json.loads(ended.stdout) == {"uid": 0, "home": os.environ.get("HOME")}
    told = [line for line in ended.stderr.splitlines() if "staying root" in line]
    assert len(told) == 1
    assert str(tmp_path / "python") in told[0]


@NEEDS_ROOT
@pytest.mark.parametrize("run_as", ["nobody-of-this-name", "61234", "not a name"])
def test_a_named_user_that_cannot_be_used_stops_it_with_a_line(tmp_path: Path, run_as: str) -> None:
    ended = _run(tmp_path, STAY, run_as)
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1
    assert f"AUTOPILOT_RUN_AS={run_as}" in ended.stderr.replace("'", "")
    assert not ended.stdout


@NEEDS_ROOT
def test_who_is_not_root_stays_who_it_is(tmp_path: Path) -> None:
    ended = _run(tmp_path, NOT_ROOT, "nobody-of-this-name")
    assert json.loads(ended.stdout) == 65534, ended.stderr


@NEEDS_ROOT
def test_root_by_name_stays_root(tmp_path: Path) -> None:
    ended = _run(tmp_path, STAY, "root")
    assert json.loads(ended.stdout)["uid"] == 0
    assert not ended.stderr


@NEEDS_ROOT
def test_a_loaded_file_or_a_folder_of_roots_alone_is_out_of_reach(tmp_path: Path) -> None:
    (tmp_path / "private").mkdir(mode=0o700)
    assert privilege_drop.out_of_reach(Identity(OWN_ID, OWN_ID), Needs(write=(tmp_path / "private",)))


def test_who_is_named_by_the_setting() -> None:
    assert identity("root") is None
    assert identity("0:5") is None
    assert identity("61234:7") == Identity(61234, 7, identity("61234:7").groups)  # type: ignore[union-attr]
    assert identity("auto") is not None
    with pytest.raises(SettingsError, match="no such user"):
        identity("nobody-of-this-name")


def test_a_local_database_is_reached_by_the_group_of_its_folder() -> None:
    assert socket_folders("postgresql://postgres:@/postgres?host=/data/postgres") == (Path("/data/postgres"),)
    assert socket_folders("postgresql://postgres@127.0.0.1:5432/postgres") == ()
    assert socket_folders("") == ()


@NEEDS_ROOT
def test_keys_that_are_written_again_stay_readable_for_the_gateways_group(tmp_path: Path) -> None:
    path = Instance(tmp_path).write_api_keys("one")
    assert path.stat().st_mode & 0o777 == 0o600
    os.chown(path, 0, OWN_ID)
    path.chmod(0o640)
    Instance(tmp_path).write_api_keys("two")
    assert (path.stat().st_gid, path.stat().st_mode & 0o777) == (OWN_ID, 0o640)
    assert len(json.loads(path.read_text())) == 2


def test_doctor_says_whom_services_become(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(privilege_drop, "out_of_reach", lambda *_: "")
    monkeypatch.setenv("AUTOPILOT_RUN_AS", "61234")
    assert privilege_drop.runs_as().startswith("user 61234")
    monkeypatch.setattr(privilege_drop, "out_of_reach", lambda *_: "it cannot")
    assert privilege_drop.runs_as().startswith("nobody: they do not start (it cannot)")
    monkeypatch.setenv("AUTOPILOT_RUN_AS", "auto")
    assert privilege_drop.runs_as().startswith("root (it cannot)")
    monkeypatch.setenv("AUTOPILOT_RUN_AS", "root")
    assert privilege_drop.runs_as().startswith("root (AUTOPILOT_RUN_AS=root)")

"""The sandbox held against programs that try to leave it, and tools against files that try to lead them."""

from __future__ import annotations

import base64
import json
import os
import platform
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from accelerator_autopilot.inference.adapters import sandbox as sandbox_module
from accelerator_autopilot.inference.adapters.sandbox import Sandbox
from accelerator_autopilot.inference.adapters.sandbox_filesystem import NOBODY, SandboxFilesystem
from accelerator_autopilot.inference.adapters.seccomp import seccomp_program
from accelerator_autopilot.inference.errors import NotConfiguredError
from tests.support.kinds import Caller
from tests.support.sandbox import NEEDS_SANDBOX

call = Caller()
ATTEMPTS = """
import ctypes, errno, glob, json, os, pathlib, resource, signal, socket, subprocess, sys
found = {}
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def attempt(name, what):
    try:
        found[name] = what()
    except BaseException as error:
        found[name] = "held"
def call(number, *arguments):
    if libc.syscall(number, *arguments) == -1:
        raise OSError(ctypes.get_errno(), "refused")
    return "done"
def write(path):
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
    return "done"
def read(path):
    data = open(path, "rb").read(100)
    return "done" if data else "empty"
def dial(family, address):
    with socket.socket(family, socket.SOCK_STREAM) as s:
        s.settimeout(2)
        s.connect(address)
    return "done"
def kinds():
    kept = []
    for family in (16, 17, 38, 40):
        try:
            socket.socket(family, socket.SOCK_RAW if family in (16, 17) else socket.SOCK_STREAM).close()
            kept.append(family)
        except OSError:
            pass
    return kept
"""
X86 = platform.machine() == "x86_64"


def escape(program: str, timeout_s: float = 30.0) -> dict[str, Any]:
    finished = Sandbox("auto").run(
        {"program/p.py": ATTEMPTS + program + "\nprint('FOUND ' + json.dumps(found))"}, ["p.py"], timeout_s=timeout_s
    )
    lines = [line for line in finished.output.splitlines() if line.startswith("FOUND ")]
    assert lines, finished
    return json.loads(lines[0][6:])


@NEEDS_SANDBOX
class TestEscapes:
    def test_files_of_this_machine_are_not_there(self, tmp_path: Path) -> None:
        secret = tmp_path / "api-key.secret"
        secret.write_text("ap_secret")
        found = escape(
            f"attempt('secret', lambda: read({str(secret)!r}))\n"
            "for p in ('/etc/shadow', '/etc/passwd', '/root/.bashrc', '/home', '/var', '/usr/bin/mount', '/run'):\n"
            "    attempt(p, lambda: read(p) if os.path.isfile(p) else (os.path.exists(p) and 'done' or 'held'))\n"
            "os.symlink('/etc/shadow', '/mnt/link')\nattempt('link', lambda: read('/mnt/link'))\n"
            "for p in ('/out', '/usr/lib/out', '/tmp/out', sys.prefix + '/lib/out', '/dev/out', '/proc/sys/out'):\n"
            "    attempt('write ' + p, lambda: write(p))\n"
        )
        assert set(found.values()) == {"held"}, found

    def test_proc_sys_and_devices_are_closed(self) -> None:
        found = escape(
            "for p in ('/proc/sys/kernel/core_pattern', '/proc/sysrq-trigger', '/dev/mem',\n"
            "          '/dev/kmsg', '/dev/kvm', '/dev/fuse', '/dev/nvidia0', '/sys/kernel'):\n"
            "    attempt('write ' + p, lambda: write(p))\n"
            "for p in ('/proc/kcore', '/proc/kallsyms', '/proc/keys', '/proc/cmdline'):\n"
            "    attempt('read ' + p, lambda: read(p))\n"
            "attempt('node', lambda: (os.mknod('/mnt/node', 0o20600, os.makedev(1, 1)), read('/mnt/node'))[1])\n"
            "attempt('others', lambda: [p for p in os.listdir('/proc') if p.isdigit() and int(p) > 40] or 'held')\n"
        )
        assert set(found.values()) <= {"held", "empty"}, found

    def test_the_first_process_has_no_more_than_the_code_beside_it(self) -> None:
        """Where root starts nothing they are of one user, so code can have that process do what it may do."""
        found = escape(
            "def status(pid):\n"
            "    lines = dict(l.split(':', 1) for l in open(f'/proc/{pid}/status').read().splitlines())\n"
            "    return [lines[n].strip() for n in ('Seccomp', 'NoNewPrivs', 'CapEff', 'CapPrm', 'CapBnd')]\n"
            "found['first'], found['own'] = status(1), status('self')\n"
            "attempt('environment', lambda: open('/proc/1/environ').read())\n"
        )
        assert found["first"] == found["own"]
        assert found["first"][:4] == ["2", "1", "0" * 16, "0" * 16]
        assert "AUTOPILOT" not in str(found["environment"])

    def test_no_socket_leads_out(self, tmp_path: Path) -> None:
        path = str(tmp_path / "s")
        with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as unix:
            unix.bind(path)
            unix.listen()
            abstract = socket.socket(socket.AF_UNIX)
            abstract.bind(f"\0autopilot-test-{os.getpid()}")
            abstract.listen()
            found = escape(
                f"attempt('tcp', lambda: dial(socket.AF_INET, ('127.0.0.1', {server.getsockname()[1]})))\n"
                f"attempt('unix', lambda: dial(socket.AF_UNIX, {path!r}))\n"
                f"attempt('abstract', lambda: dial(socket.AF_UNIX, '\\0autopilot-test-{os.getpid()}'))\n"
                "attempt('dns', lambda: dial(socket.AF_INET, ('9.9.9.9', 53)))\n"
                "attempt('kinds', lambda: kinds() or 'held')\n"
            )
            abstract.close()
        assert set(found.values()) == {"held"}, found

    @pytest.mark.skipif(not X86, reason="numbers of system calls are those of x86_64")
    def test_calls_into_the_kernels_inner_parts_are_refused(self) -> None:
        calls = {"mount": 165, "pivot_root": 155, "ptrace": 101, "keyctl": 250, "bpf": 321, "perf": 298,
                 "userfaultfd": 323, "unshare": 272, "setns": 308, "kexec": 246, "module": 313,
                 "io_uring": 425, "memfd": 319, "shmget": 29,
                 "chroot": 161, "clone3": 435, "x future": 500}  # fmt: skip
        found = escape(
            f"for name, number in {calls!r}.items():\n    attempt(name, lambda: call(number, 0, 0, 0, 0, 0))\n"
            "attempt('new user', lambda: call(56, 0x10000000 | 17, 0, 0, 0, 0))\n"
            "attempt('new net', lambda: call(56, 0x40000000 | 17, 0, 0, 0, 0))\n"
            "attempt('tiocsti', lambda: call(16, 0, 0x5412, b'x'))\n"
            "attempt('root', lambda: os.setuid(0))\n"
        )
        assert set(found.values()) == {"held"}, found

    def test_it_has_no_rights_and_nothing_of_ours(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AUTOPILOT_NATS_PASSWORD", "hunter2")
        reading, writing = os.pipe()
        os.set_inheritable(writing, True)
        found = escape(
            "status = dict(l.split(':\\t', 1) for l in open('/proc/self/status').read().splitlines() if ':\\t' in l)\n"
            "found |= {k: status[k] for k in ('CapEff', 'CapPrm', 'CapInh', 'NoNewPrivs', 'Seccomp', 'Groups')}\n"
            "found['uid'] = os.getuid()\nfound['environ'] = sorted(os.environ)\n"
            "found['open'] = sorted(int(f) for f in os.listdir('/proc/self/fd'))[:-1]\n"
        )
        os.close(reading)
        os.close(writing)
        nothing = "0" * 16
        assert (found["CapEff"], found["CapPrm"], found["CapInh"]) == (nothing, nothing, nothing)
        assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")
        assert found["uid"] != 0
        assert not [name for name in found["environ"] if "AUTOPILOT" in name]
        assert found["open"] == [0, 1, 2]

    def test_three_hundred_forks_fail(self) -> None:
        found = escape(
            "def forks():\n    kids = []\n    try:\n        for _ in range(300):\n            pid = os.fork()\n"
            "            if pid == 0:\n                signal.pause()\n            kids.append(pid)\n"
            "    except OSError:\n        return len(kids)\n"
            "    finally:\n        [os.kill(p, 9) for p in kids]\n    return len(kids)\n"
            "attempt('forks', forks)\n"
        )
        assert 10 <= found["forks"] <= 64

    def test_memory_is_limited_for_all_processes_together(self) -> None:
        grow = (
            "import os, signal\nfor _ in range(6):\n    if os.fork() == 0:\n        block = bytearray(500 * 2**20)\n"
            "        for i in range(0, len(block), 4096):\n            block[i] = 1\n        signal.pause()\n"
            "signal.pause()\n"
        )
        finished = Sandbox("auto").run({"program/p.py": grow}, ["p.py"], timeout_s=40)
        assert finished.end == "memory"
        found = escape("attempt('alone', lambda: len(bytearray(4 * 2**30)))\n")
        assert found["alone"] == "held"

    def test_disk_output_and_time_are_limited(self) -> None:
        found = escape(
            "attempt('file', lambda: pathlib.Path('/mnt/big').write_bytes(b'x' * 10**8))\n"
            "def fill(folder):\n    for i in range(20):\n"
            "        pathlib.Path(folder, str(i)).write_bytes(b'x' * 8 * 2**20)\n    return 'done'\n"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "attempt('home', lambda: fill('/mnt'))\nattempt('shm', lambda: fill('/dev/shm'))\n"
            "attempt('own', lambda: (os.remove('/mnt/0'), write('/mnt/own'))[1])\n"
        )
        assert found == {"file": "held", "home": "held", "shm": "held", "own": "done"}
        loud = Sandbox("auto").run({"program/p.py": "print('x' * 10**7)"}, ["p.py"], timeout_s=20)
        assert (len(loud.output), loud.truncated) == (sandbox_module.OUTPUT_BYTES, True)
        forever = Sandbox("auto").run({"program/p.py": "while True: pass"}, ["p.py"], timeout_s=1)
        assert (forever.timed_out, forever.end) == (True, "time")

    def test_all_of_it_ends_with_its_time(self, tmp_path: Path) -> None:
        mark = f"left-behind-{os.getpid()}"
        program = (
            f"import os, sys\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
            f"        os.execv(sys.executable, [sys.executable, '-c', 'import time; time.sleep(99)', '{mark}'])\n"
            "while True: pass\n"
        )
        assert Sandbox("auto").run({"program/p.py": program}, ["p.py"], timeout_s=2).timed_out
        lines = [p.read_bytes() for p in Path("/proc").glob("[0-9]*/cmdline") if p.exists()]
        assert not [line for line in lines if mark.encode() in line]


class TestRefusal:
    def test_without_bubblewrap_nothing_is_run_and_the_answer_says_so(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        for kind, payload in (("generate-tests", {"code": "def f(x): return x"}), ("analyze-code", {"code": "x = 1"})):
            with pytest.raises(NotConfiguredError, match=r"is not run because.*install bubblewrap"):
                call(kind, **payload)

    def test_walls_that_do_not_hold_are_none(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        false = tmp_path / "bwrap"
        false.write_text('#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done\nshift\nexec "$@"\n')
        false.chmod(0o755)
        tmp_path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        with pytest.raises(NotConfiguredError, match="does not work"):
            Sandbox("auto")

    def test_off_is_off(self) -> None:
        with pytest.raises(NotConfiguredError, match="AUTOPILOT_SANDBOX=off"):
            Sandbox("off")

    def test_a_processor_whose_calls_are_unknown_has_no_filter(self) -> None:
        with pytest.raises(NotConfiguredError, match="riscv64"):
            seccomp_program("riscv64")
        assert len(seccomp_program("aarch64")) % 8 == 0

    @NEEDS_SANDBOX
    @pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
    def test_root_becomes_a_user_that_nobody_is(self) -> None:
        isolation = Sandbox("auto", uid=54321)._isolation
        assert (isolation.uid, isolation.root_drops in {"before", "inside"}) == (54321, True)
        program = "import os; print(os.getuid(), open('/proc/self/uid_map').read().split())"
        ended = sandbox_module._run(
            SandboxFilesystem(isolation.bwrap, "inside", 54321),
            {},
            ["-c", program],
            sandbox_module.Limits(20, 2**31, 64, 1000),
        )
        assert ended.output.split()[0] == "54321", ended
        assert NOBODY != 0


HOSTILE = "import os\nopen('/mnt/MARK', 'w').write('run')\nprint('MARK', os.getcwd(), flush=True)\n"
PYTEST = "addopts = -p evil\n"
CONFIGURATION = {
    ".bandit": "[bandit]\nskips = B602,B404,B605,B603\noutput = /mnt/stolen\n",
    "pyproject.toml": "[tool.ruff]\nselect = []\n[tool.bandit]\nskips = ['B602']\n",
    "ruff.toml": "lint.select = []\nexclude = ['*']\n",
    ".ruff.toml": "exclude = ['*']\n",
    "setup.cfg": f"[bandit]\nskips = B602\n[tool:pytest]\n{PYTEST}",
    "tox.ini": f"[bandit]\nskips = B602\n[pytest]\n{PYTEST}",
    "pytest.ini": f"[pytest]\n{PYTEST}",
    "bandit.yaml": "skips: ['B602']\n",
    "evil.pth": "import os; os.system('touch /mnt/MARK')\n",
    ".gitignore": "*\n",
    ".ignore": "*\n",
}
LIST_MODULES = (
    "import bandit.cli.main, ruff.__main__, radon.complexity, sys\n"
    "print(*sorted({m.split('.')[0] for m in sys.modules}))"
)


@NEEDS_SANDBOX
class TestToolsRunOnFiles:
    BAD = "import subprocess\nsubprocess.call('ls ' + input(), shell=True)\n"

    def rules(self, files: list[dict[str, str]]) -> set[tuple[str, str, int]]:
        out = call("analyze-code", files=files)
        return {(f.tool, f.rule, f.line) for f in out.findings if f.file == "bad/a.py"}

    def test_no_file_of_a_job_is_a_module_or_a_configuration_of_a_tool(self) -> None:
        plain = self.rules([{"name": "bad/a.py", "text": self.BAD}])
        assert {("bandit", "B602", 2), ("bandit", "B404", 1)} <= plain
        modules = subprocess.run(
            [sys.executable, "-I", "-c", LIST_MODULES], capture_output=True, text=True, check=True
        ).stdout
        names = {*modules.split(), "sitecustomize", "usercustomize", "conftest", "json", "yaml", "pydantic", "services"}
        files = [{"name": f"{n}.py", "text": HOSTILE} for n in sorted(names) if n.isidentifier()]
        files += [{"name": f"{n}/__init__.py", "text": HOSTILE} for n in ("bandit", "ruff", "radon", "bad", "services")]
        files += [{"name": f"{folder}{n}", "text": t} for n, t in CONFIGURATION.items() for folder in ("", "bad/")]
        files.append({"name": "bad/a.py", "text": self.BAD})
        assert len(files) > 100
        assert self.rules(files) == plain

    def test_a_comment_that_silences_marks_its_finding_and_does_not_hide_it(self) -> None:
        code = (
            "# ruff: noqa\nimport os\nimport subprocess\nsubprocess.call('ls', shell=True)  # nosec\n"
            "subprocess.call('ls', shell=True)  # nosec B999\ntext = '# nosec'; subprocess.call('ls', shell=True)\n"
        )
        out = call("analyze-code", code=code, language="python")
        marks = {(f.rule, f.line): f.suppressed for f in out.findings}
        assert marks["F401", 2]
        assert marks["B602", 4]
        assert not marks["B602", 5]
        assert not marks["B602", 6]
        assert out.suppressed == sum(marks.values())
        results = [r for run in out.sarif["runs"] for r in run["results"]]
        assert sum("suppressions" in r for r in results) == out.suppressed

    @pytest.mark.parametrize("name", ["build/a.py", "venv/a.py", ".tox/a.py", "x" * 400 + ".py", "a.py/b.py", "-o.py"])
    def test_no_name_keeps_a_file_from_being_read(self, name: str) -> None:
        out = call("analyze-code", files=[{"name": name, "text": self.BAD}, {"name": "a.py", "text": "x = 1\n"}])
        assert "B602" in {f.rule for f in out.findings if f.file == name}

    def test_two_files_of_nearly_one_name_do_not_hide_each_other(self) -> None:
        files = [{"name": "code.py", "text": self.BAD}, {"name": "code", "text": "x = 1\n"}]
        for given in (files, files[::-1]):
            out = call("analyze-code", files=given)
            assert "B602" in {f.rule for f in out.findings if f.file == "code.py"}
            assert out.languages == {"python": 2}

    def test_a_file_whose_language_cannot_be_guessed_ends_no_analysis(self) -> None:
        files = [{"name": "deep", "text": "-" * 100_000 + "1"}, {"name": "a.py", "text": self.BAD}]
        out = call("analyze-code", files=files)
        assert "B602" in {f.rule for f in out.findings if f.file == "a.py"}

    def test_code_that_breaks_a_parser_fails_its_job_alone(self) -> None:
        deep = "(" * 100_000 + ")" * 100_000
        outcome = call.outcome(
            "analyze-code", files=[{"name": "deep.py", "text": deep}, {"name": "a.py", "text": "x=1\n"}]
        )
        assert outcome is not None
        binary = base64.b64encode(b"\x00\x01").decode()
        assert call(
            "analyze-code", files=[{"name": "a.py", "text": "x=1\n"}, {"name": "b", "base64": binary}]
        ).skipped == ["b"]


class TestSkips:
    @pytest.mark.parametrize(
        "reason", ["not listed here", "needs a sandbox: install bubblewrap", "hypertables make their chunks themselves"]
    )
    def test_a_skip_that_nobody_allowed_fails_the_run(self, reason: str, tmp_path: Path) -> None:
        root = Path(__file__).parents[2]
        (tmp_path / "test_it.py").write_text(f"import pytest\n\ndef test_it():\n    pytest.skip({reason!r})\n")
        command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "-c", "/dev/null", str(tmp_path)]
        here = os.environ | {
            "AUTOPILOT_STRICT_SKIPS": "1",
            "PYTHONPATH": os.pathsep.join((str(root), os.environ.get("PYTHONPATH", ""))),
        }
        ended = subprocess.run(command, env=here, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert ended.returncode == (0 if reason.startswith("hypertables") else 1), ended.stdout

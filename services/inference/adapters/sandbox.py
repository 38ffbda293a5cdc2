"""Run untrusted code, and tools on untrusted files, in bubblewrap (https://github.com/containers/bubblewrap).

A sandbox has its own namespaces, a root folder with little more than the interpreter, no network, a system call filter,
limits on time, memory, processes and disk, and never runs as root. Where this isolation is not available, nothing is
run.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.resources import files as resources
from pathlib import Path
from typing import Literal

from accelerator_autopilot.inference.adapters.sandbox_filesystem import (
    HOME,
    NOBODY,
    PACKAGES,
    SandboxFilesystem,
    environment,
    own_uid,
)
from accelerator_autopilot.inference.adapters.sandbox_watchdog import Finished, Limits, watch
from accelerator_autopilot.inference.adapters.seccomp import seccomp_program
from accelerator_autopilot.inference.errors import NotConfiguredError

__all__ = ["HOME", "PACKAGES", "PROGRAM", "Finished", "Sandbox"]

PROGRAM = f"{HOME}/program"
MEMORY_BYTES = 2 * 2**30
FILE_BYTES = 16 * 2**20
OPEN_FILES = 256
PROCESSES = 64
OUTPUT_BYTES = 2 * 2**20
PROBE_S = 20.0
ADVICE = "install bubblewrap 0.8 or newer (apt-get install bubblewrap) and allow user namespaces"
PROBE = """
import os
pid = os.fork()
if pid == 0:
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
held = {"Seccomp": "2", "NoNewPrivs": "1"} | dict.fromkeys(("CapEff", "CapPrm", "CapInh", "CapAmb"), "0" * 16)
wrong = {name: status.get(name) for name, value in held.items() if status.get(name) != value}
ways_out = open("/proc/self/net/route").read().splitlines()[1:]
assert not wrong and not ways_out and os.getuid() != 0, (wrong, ways_out)
print("shut in")
"""
_proven: dict[tuple[str, int | None], SandboxFilesystem] = {}


class Sandbox:
    """Runs Python programs in isolation. Raises NotConfiguredError when this machine cannot isolate them."""

    isolation: Literal["bwrap"] = "bwrap"

    def __init__(self, wanted: Literal["auto", "bwrap", "off"], uid: int | None = None) -> None:
        if wanted == "off":
            raise NotConfiguredError("AUTOPILOT_SANDBOX=off: submitted code is not run")
        self._isolation = _isolation(uid)

    @property
    def description(self) -> str:
        """Describe the isolation that is in effect, for people."""
        root = "" if self._isolation.root_drops == "no" else f", as user {self._isolation.uid} instead of root"
        return f"bubblewrap with a filter of system calls{root}"

    def run(
        self,
        files: Mapping[str, str],
        arguments: Sequence[str],
        *,
        timeout_s: float,
        cancelled: Callable[[], bool] = lambda: False,
        packages: bool = False,
        tools: Sequence[Path] = (),
        output_bytes: int = OUTPUT_BYTES,
    ) -> Finished:
        """Run `python -I ARGUMENTS` in `PROGRAM` with these files, whose paths are relative to `HOME`.

        Everything that it writes is deleted afterwards. With `packages`, the program can import our own code
        from PACKAGES; `tools` are further files that it may read.
        """
        limits = Limits(timeout_s, MEMORY_BYTES, PROCESSES, output_bytes)
        return _run(self._isolation, files, arguments, limits, cancelled, packages=packages, tools=tools)


def _run(
    isolation: SandboxFilesystem,
    files: Mapping[str, str],
    arguments: Sequence[str],
    limits: Limits,
    cancelled: Callable[[], bool] = lambda: False,
    *,
    packages: bool = False,
    tools: Sequence[Path] = (),
) -> Finished:
    plan = {
        "uid": isolation.uid if isolation.root_drops == "inside" else None,
        "home": HOME,
        "arguments": list(arguments),
        "limits": {
            "RLIMIT_CPU": int(limits.time_s) + 1, "RLIMIT_AS": MEMORY_BYTES, "RLIMIT_FSIZE": FILE_BYTES,
            "RLIMIT_CORE": 0, "RLIMIT_NOFILE": OPEN_FILES, "RLIMIT_NPROC": PROCESSES, "RLIMIT_MEMLOCK": 0,
        },
    }  # fmt: skip
    enter = (resources("accelerator_autopilot.inference.sandboxed") / "enter.py").read_text(encoding="utf-8")
    filter_fd = os.memfd_create("seccomp")
    user = isolation.uid if isolation.root_drops == "before" else None
    try:
        os.write(filter_fd, seccomp_program())
        os.lseek(filter_fd, 0, os.SEEK_SET)
        command = isolation.command(filter_fd, packages=packages, tools=tools)
        process = subprocess.Popen(  # noqa: S603  shut in
            [*command, sys.executable, "-I", "-S", "-c", enter, json.dumps(plan)], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd="/", env=environment(), start_new_session=True,
            pass_fds=(filter_fd,), user=user, group=user, extra_groups=None if user is None else [],
        )  # fmt: skip
    finally:
        os.close(filter_fd)
    return watch(process, json.dumps(dict(files)).encode(), limits, cancelled)


def _isolation(uid: int | None) -> SandboxFilesystem:
    """Return the strongest isolation that works here. Raises NotConfiguredError with the reason when none does."""
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        raise NotConfiguredError(f"submitted code is not run because there is no sandbox: {ADVICE}")
    if (bwrap, uid) in _proven:
        return _proven[bwrap, uid]
    if os.geteuid() == 0:
        own = own_uid(uid)
        tried = [SandboxFilesystem(bwrap, "before", own), SandboxFilesystem(bwrap, "inside", own)]
    else:
        tried = [SandboxFilesystem(bwrap, "no", NOBODY)]
    reason = ""
    for isolation in tried:
        reason = _fault(isolation)
        if not reason:
            return _proven.setdefault((bwrap, uid), isolation)
    raise NotConfiguredError(f"submitted code is not run because bubblewrap does not work ({reason}): {ADVICE}")


def _fault(isolation: SandboxFilesystem) -> str:
    """Test this isolation; returns what is wrong with it, or an empty string."""
    limits = Limits(PROBE_S, MEMORY_BYTES, PROCESSES, OUTPUT_BYTES)
    finished = None
    with suppress(OSError, subprocess.SubprocessError):
        finished = _run(isolation, {}, ["-c", PROBE], limits)
    if finished is None:
        return "it does not start"
    if finished.code == 0 and finished.output.strip() == "shut in":
        return ""
    last = (finished.output.strip().splitlines() or [f"exit code {finished.code}, ended by {finished.end}"])[-1]
    return last[:300]

"""Running code that nobody has read: no network, no files but its own, limits on time, memory, processes and disk.

bubblewrap (https://github.com/containers/bubblewrap) where there is one, else namespaces through util-linux' unshare.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from services.inference.errors import NotConfiguredError

MEMORY_BYTES = 2 * 2**30
FILE_BYTES = 16 * 2**20
DISK_BYTES = 64 * 2**20
PROCESSES = 64
OUTPUT_BYTES = 2 * 2**20
POLL_S = 0.1
# The only folder that a program in there may write to; not /tmp, where its interpreter may lie.
HOME = "/mnt"
SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/sbin", "/etc/ld.so.cache", "/etc/alternatives")
Isolation = Literal["bwrap", "unshare"]


@dataclass(frozen=True)
class Finished:
    """How a program ended; `timed_out` when it was killed for its time, `cancelled` when nobody waits any more."""

    code: int
    output: str
    timed_out: bool
    cancelled: bool


class Sandbox:
    """Runs Python programs shut in."""

    def __init__(self, wanted: Literal["auto", "bwrap", "unshare"]) -> None:
        self.isolation: Isolation = _choose(wanted)

    def run(
        self,
        files: Mapping[str, str],
        arguments: list[str],
        scratch: Path,
        *,
        timeout_s: float,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Finished:
        """Run `python ARGUMENTS` in a folder with these files; what it writes is gone afterwards."""
        inputs = scratch / "sandbox"
        shutil.rmtree(inputs, ignore_errors=True)
        inputs.mkdir(parents=True)
        for name, text in files.items():
            (inputs / name).write_text(text, encoding="utf-8")
        command = [*self._walls(inputs), sys.executable, *arguments]
        process = subprocess.Popen(  # noqa: S603  shut in
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd="/",
            env=_environment(), start_new_session=True, preexec_fn=_limits(timeout_s),  # noqa: PLW1509  no threads' locks needed
        )  # fmt: skip
        return _watch(process, timeout_s, cancelled)

    def _walls(self, inputs: Path) -> list[str]:
        homes = [p for p in dict.fromkeys((sys.prefix, sys.base_prefix)) if not p.startswith("/usr")]
        if self.isolation == "bwrap":
            binds = [part for path in SYSTEM if Path(path).exists() for part in ("--ro-bind", path, path)]
            binds += [part for path in homes for part in ("--ro-bind", path, path)]
            return [
                "bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL", *binds,
                "--proc", "/proc", "--dev", "/dev", "--size", str(DISK_BYTES), "--tmpfs", HOME,
                "--ro-bind", str(inputs), f"{HOME}/program", "--remount-ro", "/", "--chdir", f"{HOME}/program", "--",
            ]  # fmt: skip
        script = (
            f"mount -t tmpfs -o size={DISK_BYTES} tmpfs {HOME} && "
            f'mkdir {HOME}/program && cp -r "$0"/. {HOME}/program/ && '
            "for m in $(awk '{print $2}' /proc/self/mounts | sort -r); do case $m in "
            f'{HOME}*|/proc*|/dev*) ;; *) mount -o remount,bind,ro "$m" 2>/dev/null ;; esac; done; '
            f'cd {HOME}/program && exec setpriv --no-new-privs --bounding-set=-all "$@"'
        )
        return [
            "unshare", "--user", "--map-root-user", "--net", "--pid", "--mount", "--ipc", "--fork", "--kill-child",
            "sh", "-c", script, str(inputs),
        ]  # fmt: skip


def _choose(wanted: str) -> Isolation:
    if (
        wanted in {"auto", "bwrap"}
        and shutil.which("bwrap")
        and _works(["bwrap", "--unshare-all", "--ro-bind", "/", "/"])
    ):
        return "bwrap"
    walls = ["unshare", "--user", "--map-root-user", "--net", "--pid", "--mount", "--fork"]
    if wanted in {"auto", "unshare"} and shutil.which("unshare") and _works(walls):
        return "unshare"
    raise NotConfiguredError("nothing here can shut in generated tests: install bubblewrap, or allow user namespaces")


def _works(walls: list[str]) -> bool:
    try:
        return subprocess.run([*walls, "true"], capture_output=True, timeout=10, check=False).returncode == 0  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return False


def _environment() -> dict[str, str]:
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": HOME, "TMPDIR": HOME, "LANG": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0", "HYPOTHESIS_STORAGE_DIRECTORY": f"{HOME}/hypothesis",
        "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1",
    }  # fmt: skip


def _limits(timeout_s: float) -> Callable[[], None]:
    def apply() -> None:
        seconds = int(timeout_s) + 1
        for limit, value in (
            (resource.RLIMIT_CPU, seconds),
            (resource.RLIMIT_AS, MEMORY_BYTES),
            (resource.RLIMIT_FSIZE, FILE_BYTES),
            (resource.RLIMIT_CORE, 0),
        ):
            resource.setrlimit(limit, (value, value))
        # Root's processes are not counted, and a shared account's are counted with all its others.
        if os.getuid() != 0:
            resource.setrlimit(resource.RLIMIT_NPROC, (4096, 4096))

    return apply


def _watch(process: subprocess.Popen[bytes], timeout_s: float, cancelled: Callable[[], bool]) -> Finished:
    kept = bytearray()

    def read() -> None:
        assert process.stdout is not None  # noqa: S101  piped
        while chunk := process.stdout.read1(65_536):  # type: ignore[attr-defined]
            kept.extend(chunk[: OUTPUT_BYTES - len(kept)])

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    waited, stopped = 0.0, False
    timed_out = False
    while process.poll() is None:
        try:
            process.wait(POLL_S)
        except subprocess.TimeoutExpired:
            waited += POLL_S
        stopped, timed_out = cancelled(), waited >= timeout_s
        if process.returncode is None and (stopped or timed_out):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    reader.join(timeout=5)
    return Finished(process.returncode, kept.decode(errors="replace"), timed_out and process.returncode < 0, stopped)

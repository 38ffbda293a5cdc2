"""The sandbox's view of the filesystem, as arguments of bubblewrap."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import accelerator_autopilot
import accelerator_autopilot.inference

# The only folder besides /dev/shm that a sandboxed program may write to; not /tmp, where its interpreter may be.
HOME = "/mnt"
PACKAGES = "/opt/autopilot"
DISK_BYTES = 64 * 2**20
SHARED_BYTES = 16 * 2**20
SYSTEM = ("/usr/lib", "/usr/lib64", "/lib", "/lib64", "/etc/ld.so.cache", "/usr/share/zoneinfo")
HIDDEN_FOLDERS = ("sys", "irq", "bus", "acpi", "scsi", "fs", "driver")
HIDDEN_FILES = (
    "kcore", "kmsg", "keys", "key-users", "kallsyms", "timer_list", "sched_debug", "sysrq-trigger", "config.gz",
    "iomem", "ioports", "modules", "slabinfo", "vmallocinfo", "pagetypeinfo", "interrupts", "cmdline",
)  # fmt: skip
# Without a user namespace: ids that nothing else on a machine uses, above those of systemd and of containers.
OWN_IDS = 2_000_000_000
NOBODY = 65534


@dataclass(frozen=True)
class SandboxFilesystem:
    """How programs are isolated on this machine.

    `uid` is the user that root switches to: `before` bubblewrap starts, where that user can reach the interpreter,
    otherwise `inside`, after bubblewrap has built its root folder. Users other than root need neither.
    """

    bwrap: str
    root_drops: Literal["no", "before", "inside"]
    uid: int = NOBODY

    def command(self, seccomp_fd: int, *, packages: bool, tools: Sequence[Path]) -> list[str]:
        """Return bubblewrap's command line up to the program; with `packages`, our own code can be imported inside."""
        own_user = self.root_drops != "inside"
        rights = ["--unshare-user", "--uid", str(NOBODY), "--gid", str(NOBODY)] if own_user else []
        kept = [] if own_user else ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
        binds = {path: path for path in readable(tools)}
        if packages:
            binds |= {f"{PACKAGES}/{name}": folder for name, folder in _our_code().items()}
        real = os.path.realpath(sys.executable)
        link = ["--symlink", real, sys.executable] if real != sys.executable else []
        return [
            self.bwrap, "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try",
            *rights, "--die-with-parent", "--new-session", "--cap-drop", "ALL", *kept, "--hostname", "sandbox",
            *_folders([*binds, sys.executable]), *_bound(binds), *link, "--proc", "/proc", *_hidden(), "--dev", "/dev",
            "--perms", "1777", "--size", str(SHARED_BYTES), "--tmpfs", "/dev/shm", "--remount-ro", "/dev",
            "--perms", "1777", "--size", str(DISK_BYTES), "--tmpfs", HOME, "--remount-ro", "/",
            "--chdir", HOME, "--seccomp", str(seccomp_fd), "--",
        ]  # fmt: skip


def readable(tools: Sequence[Path] = ()) -> list[str]:
    """Return the paths that a program may read: shared libraries, the interpreter with its packages, and the tools."""
    real = os.path.realpath(sys.executable)
    prefixes = [f"{prefix}/{lib}" for prefix in (sys.base_prefix, sys.prefix) for lib in ("lib", "lib64")]
    paths = sysconfig.get_paths()
    wanted = [
        *SYSTEM,
        *prefixes,
        paths["purelib"],
        paths["platlib"],
        f"{sys.prefix}/pyvenv.cfg",
        real,
        *map(str, tools),
    ]
    found: list[str] = []
    for path in dict.fromkeys(wanted):
        if Path(path).exists() and not any(path == f or path.startswith(f"{f}/") for f in found):
            found.append(path)
    return found


def environment() -> dict[str, str]:
    """Return the environment variables of a sandboxed program: none of ours, and few threads."""
    return {
        "PATH": "/usr/bin:/bin", "HOME": HOME, "TMPDIR": HOME, "USER": "sandbox", "LANG": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0", "HYPOTHESIS_STORAGE_DIRECTORY": f"{HOME}/hypothesis",
        "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "RAYON_NUM_THREADS": "2",
        "POLARS_MAX_THREADS": "2", "TOKENIZERS_PARALLELISM": "false",
    }  # fmt: skip


def own_uid(configured: int | None) -> int:
    """Return the sandbox's user id when root starts it: the configured one, or one derived from the process id."""
    if configured is not None:
        return configured
    wanted = OWN_IDS + os.getpid()
    try:
        ranges = [tuple(map(int, line.split())) for line in Path("/proc/self/uid_map").read_text().splitlines()]
    except (OSError, ValueError):
        return NOBODY
    return wanted if any(first <= wanted < first + count for first, _, count in ranges) else NOBODY


def _folders(paths: Iterable[str]) -> list[str]:
    """Create the parent folders of these paths readable by the sandbox's user; bubblewrap makes them for root only."""
    above = {str(parent): None for path in paths for parent in reversed(Path(path).parents[:-1])}
    return [part for path in above for part in ("--perms", "0755", "--dir", path)]


def _bound(binds: Mapping[str, str]) -> list[str]:
    return [part for inside, outside in binds.items() for part in ("--ro-bind", outside, inside)]


def _hidden() -> list[str]:
    proc = Path("/proc")
    folders = [f"/proc/{name}" for name in HIDDEN_FOLDERS if (proc / name).is_dir()]
    files = [f"/proc/{name}" for name in HIDDEN_FILES if (proc / name).exists()]
    covered = [part for path in folders for part in ("--perms", "0555", "--tmpfs", path, "--remount-ro", path)]
    return covered + [part for path in files for part in ("--ro-bind", "/dev/null", path)]


def _our_code() -> dict[str, str]:
    """Return the parts of our own package; in a checkout they are in different folders."""
    name, root = accelerator_autopilot.__name__, Path(str(accelerator_autopilot.__file__)).resolve()
    inference = Path(str(accelerator_autopilot.inference.__file__)).resolve().parent
    parts = {part: root.parent / part for part in ("contracts", "transport", "runtime")} | {"inference": inference}
    return {f"{name}/__init__.py": str(root)} | {f"{name}/{part}": str(folder) for part, folder in parts.items()}

"""Services that root starts drop its privileges before they read any external input."""

from __future__ import annotations

import ctypes
import json
import logging
import os
import pwd
import re
import stat
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from urllib.parse import parse_qs, urlsplit

from accelerator_autopilot.contracts.errors import SettingsError
from accelerator_autopilot.runtime.parent_death import PR_GET_PDEATHSIG, PR_SET_PDEATHSIG
from accelerator_autopilot.runtime.settings import ServiceSettings, load

log = logging.getLogger(__name__)

USER = "autopilot"
# An id of no user: among those that systemd leaves unused, and below where small containers end.
OWN_ID = 60_901
DEVICES = ("nvidia*", "nvidia-caps/*", "dri/render*", "kfd")
ADVICE = "install Python and the product where every user can read them, or set AUTOPILOT_RUN_AS"
PROBE_S = 60.0
MAX_FILES = 10_000
MODEL_FILES = (".safetensors", ".json", ".jinja", ".txt", ".model", ".bin", ".onnx", ".onnx_data")
PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 24, 38
CAPABILITY_VERSION_3 = 0x20080522
PROBE = """
import json, os, sys
for mode, paths in json.load(sys.stdin).items():
    for path in paths:
        if not os.access(path, int(mode)):
            sys.exit(f"{path} is out of its reach")
"""


@dataclass(frozen=True)
class Needs:
    """What a service needs on the disk once it is not root."""

    own: tuple[Path, ...] = ()
    """Folders that are created and given to it."""
    read: tuple[Path, ...] = ()
    """Files and folders that it reads; root-only files become readable by its group."""
    write: tuple[Path, ...] = ()
    """Folders that it writes to without owning them."""
    join: tuple[Path, ...] = ()
    """Sockets or their folders: it joins their groups."""


@dataclass(frozen=True)
class Identity:
    """A user, with its supplementary groups."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()

    def __str__(self) -> str:
        """Format it for people."""
        return f"user {self.uid}" + (f" with groups {', '.join(map(str, self.groups))}" if self.groups else "")


def drop_privileges(settings: ServiceSettings, needs: Needs | None = None, *, home: bool = True) -> None:
    """Become the user of AUTOPILOT_RUN_AS where root runs this process; elsewhere do nothing.

    With `auto`, a user that cannot reach what it needs is reported in the log, and the process stays root. Prints a
    line and exits with 2 where a named user cannot be used.
    """
    if os.geteuid() != 0:
        return
    needs, folder = needs or Needs(), settings.data_dir.absolute() / "home"
    needs = _with_settings(needs, settings, folder if home else None)
    try:
        who = identity(settings.run_as, needs.join)
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(2) from None
    if who is None:
        return
    problem = _prepare(who, needs)
    if problem and settings.run_as != "auto":
        sys.stderr.write(f"AUTOPILOT_RUN_AS={settings.run_as}: {problem}; {ADVICE}\n")
        raise SystemExit(2)
    if problem:
        log.warning("staying root", extra={"wanted": str(who), "problem": problem, "advice": ADVICE})
        return
    if home:
        _move_home(folder)
    _become(who)
    log.info("root privileges dropped", extra={"uid": who.uid, "gid": who.gid, "groups": list(who.groups)})


def identity(run_as: str, join: Iterable[Path] = ()) -> Identity | None:
    """Return the user of AUTOPILOT_RUN_AS; None for root. Raises SettingsError for an unknown user."""
    name, groups = run_as, _groups(join)
    if re.fullmatch(r"\d+(:\d+)?", run_as):
        uid, _, gid = run_as.partition(":")
        return Identity(int(uid), int(gid or uid), groups) if int(uid) else None
    if run_as == "auto":
        name = USER
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        if run_as == "auto":
            return Identity(OWN_ID, OWN_ID, groups)
        raise SettingsError(f"AUTOPILOT_RUN_AS={run_as}: there is no such user on this machine") from None
    return Identity(found.pw_uid, found.pw_gid, groups) if found.pw_uid else None


def out_of_reach(who: Identity, needs: Needs | None = None) -> str:
    """Return what prevents this user from running the product; empty if nothing does. Called as root."""
    needs = needs or Needs()
    folders = {sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib")}
    asked = {
        os.R_OK: [*sorted(folders), *_loaded(), *(str(path) for path in _with_content(needs.read))],
        os.W_OK | os.X_OK: [str(path) for path in needs.write],
        os.X_OK: [str(folder) for path in needs.join for folder in [path if path.is_dir() else path.parent]],
    }
    try:
        ended = subprocess.run(  # noqa: S603  our own interpreter
            [sys.executable, "-I", "-S", "-c", PROBE], input=json.dumps(asked), capture_output=True, text=True,
            timeout=PROBE_S, cwd="/", env=_libraries(), check=False,
            user=who.uid, group=who.gid, extra_groups=who.groups,
        )  # fmt: skip
    except (OSError, OverflowError, ValueError, subprocess.SubprocessError) as error:
        return f"{who} cannot start {sys.executable} ({error})"
    if ended.returncode == 0:
        return ""
    last = (ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"])[-1]
    return f"{who} cannot run this: {last[:300]}"


def runs_as() -> str:
    """Return the user that a service becomes when this user starts it, and why; for people."""
    if os.geteuid() != 0:
        return f"user {os.geteuid()}, who starts them"
    try:
        run_as = load(ServiceSettings).run_as
        who = identity(run_as)
    except SettingsError as error:
        return f"nobody: {error}"
    problem = out_of_reach(who) if who is not None else "AUTOPILOT_RUN_AS=root"
    if not problem:
        return f"{who} where root starts them; the agent stays root"
    kept = "root" if run_as in {"auto", "root"} else "nobody: they do not start"
    return f"{kept} ({problem})" if who is None else f"{kept} ({problem}); {ADVICE}"


def socket_folders(dsn: str) -> tuple[Path, ...]:
    """Return the folder of the local socket in this DSN, if there is one."""
    hosts = parse_qs(urlsplit(dsn).query).get("host", [])
    return tuple(Path(host) for host in hosts if host.startswith("/"))


def _with_settings(needs: Needs, settings: ServiceSettings, home: Path | None) -> Needs:
    files = (settings.nats_credentials, settings.nats_ca, settings.nats_certificate, settings.nats_key)
    own = needs.own if home is None else (*needs.own, home)
    return Needs(own, (*needs.read, *(file for file in files if file is not None)), needs.write, needs.join)


def _groups(join: Iterable[Path]) -> tuple[int, ...]:
    """Return the groups that own accelerators, and those to join; never root's."""
    found = set()
    for path in [*(path for pattern in DEVICES for path in Path("/dev").glob(pattern)), *join]:
        with suppress(OSError):
            found.add(path.stat().st_gid)
    return tuple(sorted(found - {0}))


def _loaded() -> list[str]:
    """Return the files of every loaded module: the product's and its dependencies'."""
    modules = [module for module in list(sys.modules.values()) if isinstance(module, ModuleType)]
    files = {str(module.__dict__.get("__file__") or "") for module in modules}
    return sorted(file for file in files if file.startswith("/") and Path(file).exists())


def _libraries() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name == "LD_LIBRARY_PATH"}


def _prepare(who: Identity, needs: Needs) -> str:
    """Grant it what it needs; returns what it still cannot reach."""
    problem = out_of_reach(who)
    if problem:
        return problem
    try:
        for folder in needs.own:
            _give(folder, who)
    except OSError as error:
        return f"{error.filename} cannot be given to {who} ({error.strerror})"
    for file in _with_content(needs.read):
        with suppress(OSError):
            _lend(file, who)
    return out_of_reach(who, Needs(read=needs.read, write=(*needs.write, *needs.own), join=needs.join))


def _with_content(paths: Iterable[Path]) -> list[Path]:
    """Return the existing paths, and the model files in folders among them: weights are often saved as owner-only.

    Other files of a folder are left alone: a setting may name a folder that holds more than a model.
    """
    found = []
    for path in paths:
        found += [path] if path.exists() else []
        for above, _, files in os.walk(path):
            found += [Path(above, name) for name in files if name.endswith(MODEL_FILES)][: MAX_FILES - len(found)]
    return found


def _give(folder: Path, who: Identity) -> None:
    """Give it this folder, with what an earlier version created there as root."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.lstat().st_uid == who.uid:
        return
    # The folder itself comes last, so that an interrupted change is repeated.
    for _, _, files, here in os.fwalk(folder, topdown=False, follow_symlinks=False):
        for name in files:
            os.chown(name, who.uid, who.gid, dir_fd=here, follow_symlinks=False)
        os.fchown(here, who.uid, who.gid)


def _lend(file: Path, who: Identity) -> None:
    """Let its group read a root-only file."""
    descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        found = os.fstat(descriptor)
        if stat.S_ISREG(found.st_mode) and found.st_uid == 0 and found.st_nlink == 1 and not found.st_mode & 0o007:
            os.fchown(descriptor, -1, who.gid)
            os.fchmod(descriptor, stat.S_IMODE(found.st_mode) | stat.S_IRGRP)
    finally:
        os.close(descriptor)


def _move_home(home: Path) -> None:
    """Change HOME: from here on only models are looked up in root's folders, where they were downloaded."""
    hub = Path.home() / ".cache" / "huggingface"
    if hub.is_dir():
        os.environ.setdefault("HF_HOME", str(hub))
    for name in [name for name in os.environ if name.startswith("XDG_")]:
        del os.environ[name]
    os.environ.update(HOME=str(home), USER=USER, LOGNAME=USER)


def _become(who: Identity) -> None:
    libc, parent = ctypes.CDLL(None, use_errno=True), os.getppid()
    death = ctypes.c_int(0)
    if sys.platform == "linux":
        libc.prctl(PR_GET_PDEATHSIG, ctypes.byref(death), 0, 0, 0)
        capability = 0
        while libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0:
            capability += 1
    os.setgroups(who.groups)
    os.setresgid(who.gid, who.gid, who.gid)
    os.setresuid(who.uid, who.uid, who.uid)
    if sys.platform == "linux":
        header, none = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)()
        if libc.capset(header, none) or libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "the kernel does not allow dropping root privileges")
        # Changing the user clears the parent-death signal.
        libc.prctl(PR_SET_PDEATHSIG, death.value, 0, 0, 0)
        if death.value and os.getppid() != parent:
            os.kill(os.getpid(), death.value)
    os.umask(0o077)

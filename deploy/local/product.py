"""The whole product on one machine: servers and services, each in its own supervised process."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from pydantic import SecretStr

from accelerator_autopilot.contracts.errors import UnavailableError
from accelerator_autopilot.deploy.local.instance import Instance, Runtime, take_port
from accelerator_autopilot.deploy.local.nats_disk_monitor import DiskWatch
from accelerator_autopilot.deploy.local.probes import nats_lives, service_lives
from accelerator_autopilot.deploy.local.servers import EmbeddedPostgres, nats_binary, wait_for_port, write_nats_config
from accelerator_autopilot.deploy.local.supervised_process import STOP_TIMEOUT_S, ManagedProcess
from accelerator_autopilot.deploy.local.traverse_permissions import TraversePermissions
from accelerator_autopilot.runtime.supervision import run_together
from accelerator_autopilot.transport.settings import NatsSettings

log = logging.getLogger(__name__)

SERVICES: dict[str, tuple[str, ...]] = {
    "agent": ("accelerator_autopilot.telemetry", "agent"),
    "recorder": ("accelerator_autopilot.telemetry", "recorder"),
    "anomaly": ("accelerator_autopilot.anomaly",),
    "scheduler": ("accelerator_autopilot.scheduler",),
    "notifier": ("accelerator_autopilot.notifier",),
    "gateway": ("accelerator_autopilot.gateway",),
    "pool": ("accelerator_autopilot.inference", "pool"),
}
NATS_USER = "autopilot"
READY_TIMEOUT_S = 60.0
REPORT_INTERVAL_S = 0.5
STOP_SLACK_S = 15.0
# The pool gives its workers as long as this setting to finish running jobs, and then ends within 12 s.
WORKERS_STOP = "AUTOPILOT_STOP_TIMEOUT_S"
WORKERS_STOP_S = 30.0


@dataclass(frozen=True)
class Options:
    """Start options. Ports of 0 take free ones; `simulate=None` adds four GPUs where there is none."""

    data_dir: Path
    simulate: int | None = None
    nats_port: int = 4222
    gateway_port: int = 8080
    node: str = field(default_factory=lambda: os.environ.get("AUTOPILOT_NODE") or socket.gethostname())
    sync: str = "always"
    environment: dict[str, str] = field(default_factory=dict)
    environments: dict[str, dict[str, str]] = field(default_factory=dict)
    """Further settings of single services, by their names."""


def has_nvidia_gpu() -> bool:
    """Return whether NVML finds a GPU."""
    import pynvml  # noqa: PLC0415  the client commands need no driver

    try:
        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetCount()) > 0
    except pynvml.NVMLError:
        return False


def _simulated(options: Options) -> int | str:
    """Return how many GPUs to simulate: as requested, else from the environment, else four where there is none."""
    if options.simulate is not None:
        return options.simulate
    return os.environ.get("AUTOPILOT_SIMULATE") or (0 if has_nvidia_gpu() else 4)


class EmbeddedProduct:
    """Start with `start`, then `run` until cancelled, then `stop`."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.instance = Instance(options.data_dir)
        self.passages = TraversePermissions(self.instance.path("opened_folders.json"))
        self.postgres = EmbeddedPostgres(self.instance.path("postgres"), self.passages)
        self.processes: dict[str, ManagedProcess] = {}
        self.runtime: Runtime | None = None
        self._saved_states: dict[str, dict[str, int | None]] = {}

    async def start(self) -> Runtime:
        """Start everything and wait until all is ready.

        Raises ConflictError, SettingsError or UnavailableError; what was started is stopped again.
        """
        self.instance.acquire()
        try:
            return await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> Runtime:
        o = self.options
        nats_port = take_port(o.nats_port, "nats")
        gateway_port = take_port(o.gateway_port, "gateway")
        password, api_key = self.instance.secret("nats"), self.instance.secret("api-key")
        keys_file = self.instance.write_api_keys(api_key)
        config = write_nats_config(self.instance.folder, nats_port, NATS_USER, password, sync=o.sync)
        nats = ManagedProcess(
            "nats",
            [nats_binary(), "-c", str(config)],
            os.environ,
            self._log_file("nats"),
            probe=nats_lives(nats_port),
        )
        self.processes["nats"] = nats
        await nats.start()
        await asyncio.gather(wait_for_port(nats_port), self.postgres.start())
        runtime = self.runtime = Runtime(
            pid=os.getpid(),
            nats_url=f"nats://127.0.0.1:{nats_port}",
            nats_user=NATS_USER,
            nats_password=password,
            gateway_url=f"http://127.0.0.1:{gateway_port}",
            api_key=api_key,
            node=o.node,
            database_url=self.postgres.url,
            health_ports={name: take_port(0, name) for name in SERVICES},
        )
        limits_s: dict[str, float] = {}
        for name, module in SERVICES.items():
            environment = self._environment(runtime, name, gateway_port, keys_file)
            command = [sys.executable, "-P", "-m", *module]
            limits_s[name] = stop_limit_s(name, environment)
            self.processes[name] = ManagedProcess(
                name,
                command,
                environment,
                self._log_file(name),
                probe=service_lives(runtime.health_ports[name]),
                stop_timeout_s=limits_s[name],
            )
        runtime.stop_within_s = max(limits_s.values()) + STOP_TIMEOUT_S + STOP_SLACK_S
        await asyncio.gather(*(p.start() for name, p in self.processes.items() if name != "nats"))
        self.instance.save(runtime)
        self._save_processes()
        await self.wait_ready()
        return runtime

    def _environment(self, runtime: Runtime, name: str, gateway_port: int, keys_file: Path) -> dict[str, str]:
        """Return a service's environment: the caller's own settings, and how to reach this instance."""
        return (
            {"HF_HUB_OFFLINE": "1"}
            | dict(os.environ)
            | {
                "AUTOPILOT_NATS_URL": runtime.nats_url,
                "AUTOPILOT_NATS_USER": runtime.nats_user,
                "AUTOPILOT_NATS_PASSWORD": runtime.nats_password,
                "AUTOPILOT_DATABASE_URL": runtime.database_url,
                "AUTOPILOT_NODE": runtime.node,
                "AUTOPILOT_DATA_DIR": str(self.instance.folder),
                "AUTOPILOT_HEALTH_PORT": str(runtime.health_ports[name]),
                "AUTOPILOT_SIMULATE": str(_simulated(self.options)),
                "AUTOPILOT_GATEWAY_PORT": str(gateway_port),
                "AUTOPILOT_API_KEYS_FILE": str(keys_file),
                "OMP_NUM_THREADS": "1",
                "TOKENIZERS_PARALLELISM": "false",
            }
            | self.options.environment
            | self.options.environments.get(name, {})
        )

    async def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Wait until every service is ready. Raises UnavailableError that names those that are not."""
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        while True:
            states = await self.readiness()
            problems = {name: why for name, why in states.items() if why}
            if not problems:
                return
            if loop.time() > until:
                text = "; ".join(f"{name}: {why}" for name, why in problems.items())
                raise UnavailableError(
                    f"not ready after {timeout_s:g} s: {text}; logs are in {self.instance.path('logs')}"
                )
            await asyncio.sleep(0.1)

    async def readiness(self) -> dict[str, str]:
        """Return each service with the reason why it is not ready, or an empty string."""
        assert self.runtime is not None  # noqa: S101  started
        return await readiness(self.runtime)

    async def run(self) -> None:
        """Supervise until cancelled."""
        parts = (
            self.postgres.run,
            self._keep_telling,
            self._disk_watch().run,
        )
        await run_together(*(_keep_going(part) for part in parts))

    def _disk_watch(self) -> DiskWatch:
        runtime = self.runtime
        assert runtime is not None  # noqa: S101  started
        settings = NatsSettings(
            nats_url=runtime.nats_url, nats_user=runtime.nats_user, nats_password=SecretStr(runtime.nats_password),
            nats_credentials=None, nats_ca=None,
        )  # fmt: skip
        nats = self.processes["nats"]
        return DiskWatch(self.instance.path("nats"), self._log_file("nats"), nats.restart, runtime.node, settings)

    async def _keep_telling(self) -> None:
        while True:
            self._save_processes()
            await asyncio.sleep(REPORT_INTERVAL_S)

    def _save_processes(self) -> None:
        states = {
            n: {"pid": p.pid, "restarts": p.restarts, "last_exit": p.last_exit} for n, p in self.processes.items()
        }
        states["postgres"] = {"pid": self.postgres.pid, "restarts": self.postgres.restarts, "last_exit": None}
        if states != self._saved_states:
            self.instance.save_processes(states)
            self._saved_states = states

    async def stop(self) -> None:
        """Stop services first, then the servers that they need."""
        services = [p for name, p in self.processes.items() if name != "nats"]
        await asyncio.gather(*(p.stop() for p in services))
        servers = [self.processes["nats"].stop()] if "nats" in self.processes else []
        await asyncio.gather(*servers, self.postgres.stop())
        self.passages.close()
        self.instance.release()

    def _log_file(self, name: str) -> Path:
        return self.instance.path("logs", f"{name}.log")


def stop_limit_s(name: str, environment: Mapping[str, str]) -> float:
    """Return how long a service may take to stop: longer than its own grace period, so it is never cut short."""
    if name != "pool":
        return STOP_TIMEOUT_S
    try:
        return float(environment.get(WORKERS_STOP, WORKERS_STOP_S)) + STOP_TIMEOUT_S
    except ValueError:  # which the pool itself names, and does not start with
        return WORKERS_STOP_S + STOP_TIMEOUT_S


async def _keep_going(part: Callable[[], Awaitable[None]]) -> None:
    """Run a part of the supervision forever: a full disk or a missing process must not end the others."""
    while True:
        try:
            await part()
        except OSError as error:
            log.warning("part of the supervision failed, continuing", extra={"error": str(error)})
        except Exception:
            log.exception("part of the supervision failed, continuing")
        await asyncio.sleep(1.0)


async def readiness(runtime: Runtime) -> dict[str, str]:
    """Return each service of a running instance with the reason why it is not ready, or an empty string."""
    async with httpx.AsyncClient(timeout=2.0, trust_env=False) as http:

        async def ask(port: int) -> str:
            try:
                body = (await http.get(f"http://127.0.0.1:{port}/readyz")).json()
            except (httpx.HTTPError, ValueError) as error:
                return f"no answer ({type(error).__name__})"
            return "; ".join(f"{k}: {v}" for k, v in body.get("problems", {}).items())

        answers = await asyncio.gather(*(ask(port) for port in runtime.health_ports.values()))
    return dict(zip(runtime.health_ports, answers, strict=True))

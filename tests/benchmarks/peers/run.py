"""This product beside Celery (Redis, RabbitMQ), arq, dramatiq and taskiq-nats in one run.

No-op jobs of 1 KiB, one worker process each, acknowledged late, results stored. Needs Debian's redis-server and
rabbitmq-server; installs the packages into an environment of its own. A peer that does not start is named and left out.
The last line is JSON; the baseline is the fastest peer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerator_autopilot.deploy.local.instance import take_port
from accelerator_autopilot.deploy.local.servers import nats_binary, wait_for_port
from tests.benchmarks import jobs as own

HERE = Path(__file__).parent
# Their demands on redis-py exclude each other, so each has an environment of its own.
PACKAGES = {
    "echo_celery": ["celery[redis]>=5.5,<6"],
    "echo_arq": ["arq>=0.26,<1"],
    "echo_dramatiq": ["dramatiq[redis]>=1.17,<3"],
    "echo_taskiq": ["taskiq-nats>=0.5,<1", "taskiq>=0.11,<1"],
}


@dataclass(frozen=True)
class Peer:
    """How a peer's worker starts. Programs stand in the environment's bin."""

    name: str
    module: str
    worker: tuple[str, ...]
    broker: str
    jobs: int
    singles: int


def peers(redis: int, nats: int, rabbit: str | None, scale: float) -> list[Peer]:
    celery = ("celery", "-A", "echo_celery", "worker", "-P", "prefork", "-c", "1", "-l", "ERROR")
    redis_url, nats_url = f"redis://127.0.0.1:{redis}/0", f"nats://127.0.0.1:{nats}"
    dramatiq = ("dramatiq", "echo_dramatiq", "-p", "1", "-t", "8")
    taskiq = ("taskiq", "worker", "echo_taskiq:broker", "-w", "1", "--ack-type", "when_saved")
    found = [
        Peer("celery-redis", "echo_celery", celery, redis_url, int(3000 * scale), int(200 * scale)),
        Peer("arq", "echo_arq", ("arq", "echo_arq.WorkerSettings"), redis_url, int(5000 * scale), int(200 * scale)),
        Peer("dramatiq", "echo_dramatiq", dramatiq, redis_url, int(3000 * scale), int(200 * scale)),
        Peer("taskiq-nats", "echo_taskiq", taskiq, nats_url, 256, int(100 * scale)),
    ]
    if rabbit:
        found.insert(1, Peer("celery-rabbitmq", "echo_celery", celery, rabbit, int(3000 * scale), int(200 * scale)))
    return found


def environment(folder: Path, module: str) -> Path:
    """The programs of one peer's own environment, made where it is not there yet."""
    own_folder = folder / module
    if not (own_folder / ".installed").exists():
        subprocess.run([sys.executable, "-m", "venv", str(own_folder)], check=True)
        pip = [str(own_folder / "bin" / "pip"), "install", "-q", "--disable-pip-version-check", *PACKAGES[module]]
        subprocess.run(pip, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        (own_folder / ".installed").touch()
    return own_folder / "bin"


@contextmanager
def server(command: list[str], log: Path) -> Iterator[None]:
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
        try:
            yield
        finally:
            process.terminate()
            process.wait()


@contextmanager
def rabbitmq(folder: Path) -> Iterator[str | None]:
    """A RabbitMQ of our own, where Debian's package is installed."""
    if shutil.which("rabbitmq-server") is None:
        yield None
        return
    port, own_ports = take_port(0, "rabbitmq"), take_port(0, "rabbitmq dist")
    environ = os.environ | {
        "RABBITMQ_NODENAME": f"bench{port}@localhost", "RABBITMQ_NODE_PORT": str(port), "HOME": str(folder),
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1", "RABBITMQ_DIST_PORT": str(own_ports),
        "RABBITMQ_MNESIA_BASE": str(folder), "RABBITMQ_LOG_BASE": str(folder),
    }  # fmt: skip
    with (folder / "rabbitmq.log").open("wb") as out:
        binary = "/usr/lib/rabbitmq/bin/rabbitmq-server"
        process = subprocess.Popen([binary], env=environ, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
        try:
            asyncio.run(wait_for_port(port, deadline_s=60))
            yield f"amqp://guest:guest@127.0.0.1:{port}//"
        finally:
            process.terminate()
            process.wait()


def measure(peer: Peer, environments: Path, folder: Path, redis: int) -> dict[str, Any] | str:
    """What one peer's client measured, or why it could not."""
    environ = os.environ | {
        "BROKER": peer.broker, "BACKEND": f"redis://127.0.0.1:{redis}/1", "PYTHONPATH": str(HERE),
    }  # fmt: skip
    try:
        binaries = environment(environments, peer.module)
    except subprocess.CalledProcessError:
        return f"{PACKAGES[peer.module]} cannot be installed"
    worker = [str(binaries / peer.worker[0]), *peer.worker[1:]]
    with (folder / f"{peer.name}.log").open("wb") as log:
        process = subprocess.Popen(
            worker, cwd=HERE, env=environ, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
        )
        try:
            client = [str(binaries / "python"), str(HERE / "client.py"), peer.module, str(peer.jobs), str(peer.singles)]
            done = subprocess.run(client, cwd=HERE, env=environ, capture_output=True, timeout=180, check=True)
            found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        except (subprocess.SubprocessError, ValueError, IndexError) as error:
            return f"{type(error).__name__}: {getattr(error, 'stderr', b'')[-200:]!r}"
        finally:
            os.killpg(process.pid, 9)
            process.wait()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="a tenth of the jobs")
    parser.add_argument("--environment", type=Path, help="folder of the peers' packages, kept for the next run")
    arguments = parser.parse_args()
    scale = 0.1 if arguments.short else 1.0
    folder = Path(tempfile.mkdtemp(prefix="autopilot-peers-"))
    try:
        environments = arguments.environment or folder / "environments"
        redis, nats = take_port(0, "redis"), take_port(0, "nats")
        redis_server = ["redis-server", "--port", str(redis), "--dir", str(folder), "--appendonly", "yes"]
        nats_server = [nats_binary(), "-a", "127.0.0.1", "-p", str(nats), "-js", "-sd", str(folder / "nats")]
        results: dict[str, Any] = {}
        with (
            server(redis_server, folder / "redis.log"),
            server(nats_server, folder / "nats.log"),
            rabbitmq(folder) as amqp,
        ):
            asyncio.run(wait_for_port(redis))
            asyncio.run(wait_for_port(nats))
            for peer in peers(redis, nats, amqp, scale):
                results[peer.name] = measure(peer, environments, folder, redis)
        # The same guarantees: Redis syncs its log once a second, RabbitMQ and nats-server when they see fit.
        ours = asyncio.run(own.run(int(25_600 * scale), int(1_000 * scale), "1s"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    fastest = max((r["jobs_per_s"] for r in results.values() if isinstance(r, dict)), default=0.0)
    print(json.dumps({
        "name": "peers", "value": ours["value"], "unit": "jobs/s", "baseline": fastest,
        "ratio": round(float(str(ours["value"])) / fastest, 2) if fastest else None,
        "p50_ms": ours["p50_ms"], "p99_ms": ours["p99_ms"], "peers": results,
    }))  # fmt: skip


if __name__ == "__main__":
    main()

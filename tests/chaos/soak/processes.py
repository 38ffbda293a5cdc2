"""The processes of a running product by name: signals to them, and what they use of memory and descriptors."""

from __future__ import annotations

import os
import random
import signal
import sys
from contextlib import suppress

import psutil

from accelerator_autopilot.deploy.local.instance import take_port
from accelerator_autopilot.deploy.local.probes import service_lives
from accelerator_autopilot.deploy.local.product import EmbeddedProduct
from accelerator_autopilot.deploy.local.supervised_process import ManagedProcess

NAMES = ("nats", "postgres", "agent", "recorder", "anomaly", "scheduler", "notifier", "gateway", "pool", "worker")


class Processes:
    """Finds processes anew each time: faults and supervisors replace them."""

    def __init__(self, product: EmbeddedProduct, dice: random.Random) -> None:
        self._product, self._dice = product, dice

    async def add_agent(self, node: str, devices: int, nats_url: str) -> None:
        """Start an agent of another node, supervised like the product's own."""
        runtime = self._product.runtime
        assert runtime is not None
        name, port = f"agent-{node}", take_port(0, "agent")
        environment = os.environ | {
            "AUTOPILOT_NATS_URL": nats_url,
            "AUTOPILOT_NATS_USER": runtime.nats_user,
            "AUTOPILOT_NATS_PASSWORD": runtime.nats_password,
            "AUTOPILOT_NODE": node,
            "AUTOPILOT_DATA_DIR": str(self._product.instance.folder),
            "AUTOPILOT_HEALTH_PORT": str(port),
            "AUTOPILOT_SIMULATE": str(devices),
            "AUTOPILOT_CPU": "never",
        }
        process = ManagedProcess(
            name,
            [sys.executable, "-m", "accelerator_autopilot.telemetry", "agent"],
            environment,
            self._product.instance.path("logs", f"{name}.log"),
            probe=service_lives(port),
        )
        self._product.processes[name] = process
        runtime.health_ports[name] = port
        await process.start()

    def agents(self) -> list[str]:
        """Every agent's process name."""
        return [name for name in self._product.processes if name.startswith("agent")]

    def main(self, name: str) -> int | None:
        """The process that a name stands for; of workers any one."""
        if name == "postgres":
            return self._product.postgres.pid
        if name == "worker":
            workers = self._children("pool")
            return self._dice.choice(workers).pid if workers else None
        return self._product.processes[name].pid

    def with_children(self, name: str) -> list[int]:
        """The same with the children without which PostgreSQL would go on working."""
        pid = self.main(name)
        if pid is None or name != "postgres":
            return [pid] if pid is not None else []
        return [pid, *(child.pid for child in self._children(name))]

    def _children(self, name: str) -> list[psutil.Process]:
        pid = self.main(name)
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(pid).children() if pid else []
        return []

    def usage(self) -> dict[str, tuple[float, int]]:
        """Resident megabytes of each with its children, and the most descriptors of one; of workers the largest."""
        found: dict[str, tuple[float, int]] = {}
        for name in [*self._product.processes, "postgres"]:
            pids = self.with_children(name)
            each = [usage for pid in pids if (usage := _usage(pid)) is not None]
            if each and len(each) == len(pids):
                found[name] = (round(sum(rss for rss, _ in each), 1), max(files for _, files in each))
        workers = [usage for child in self._children("pool") if (usage := _usage(child.pid)) is not None]
        if workers:
            found["worker"] = max(workers)
        return found


def _usage(pid: int) -> tuple[float, int] | None:
    try:
        process = psutil.Process(pid)
        memory = process.memory_info()
        return (memory.rss - memory.shared) / 1e6, process.num_fds()
    except (psutil.Error, OSError):
        return None


def send(pids: list[int], number: signal.Signals) -> None:
    """Send a signal to those that still live."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)

"""Services as processes of their own, without the seconds that each takes to import: one has imported all, and forks.

`python -m tests.support.forked_services` is that one. It reads an order a line and tells a process's id and, when it
has ended, its exit code. What is forked runs as `python -m services.NAME` would, to the end of the interpreter.
"""

from __future__ import annotations

import json
import os
import queue
import runpy
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

IMPORTS = (
    "services.telemetry.agent_app", "services.telemetry.recorder_app", "services.anomaly.app", "services.scheduler.app",
    "services.inference.app", "services.notifier.app", "services.gateway.__main__",
)  # fmt: skip
LOOK_EVERY_S, FORKS_WITHIN_S = 0.05, 90.0


class ForkedServices:
    """The one process that forks the others; `codes` has the exit code of each that has ended."""

    def __init__(self) -> None:
        self.codes: dict[int, int] = {}
        self._forked: queue.Queue[int] = queue.Queue()
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        threading.Thread(target=self._listen, daemon=True).start()

    def start(self, service: str, environment: Mapping[str, str], log: Path) -> int:
        """Start `service`, a module and its arguments, which logs into a file; returns its process id."""
        order = {"service": service, "environment": dict(environment), "log": str(log)}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._forked.get(timeout=FORKS_WITHIN_S)

    def close(self) -> None:
        """Kill what still runs."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            told = json.loads(line)
            if "code" in told:
                self.codes[told["pid"]] = told["code"]
            else:
                self._forked.put(told["pid"])


def tell(**what: int) -> None:
    print(json.dumps(what), flush=True)


def become(order: dict[str, object]) -> None:
    """Be the service that was ordered."""
    nothing, log = os.open(os.devnull, os.O_RDWR), os.open(str(order["log"]), os.O_WRONLY | os.O_CREAT, 0o644)
    for there, here in ((nothing, 0), (nothing, 1), (log, 2)):
        os.dup2(there, here)
    os.environ.update(order["environment"])  # type: ignore[arg-type]
    module, *role = str(order["service"]).split()
    sys.argv = [module, *role]
    runpy.run_module(f"services.{module}", run_name="__main__", alter_sys=True)


def main() -> None:
    for name in IMPORTS:
        import_module(name)
    running: set[int] = set()
    while True:
        if select.select([0], [], [], LOOK_EVERY_S)[0]:
            line = _line()
            if not line:
                break
            pid = os.fork()
            if pid == 0:
                return become(json.loads(line))
            running.add(pid)
            tell(pid=pid)
        while running and (ended := os.waitpid(-1, os.WNOHANG))[0]:
            running.discard(ended[0])
            tell(pid=ended[0], code=os.waitstatus_to_exitcode(ended[1]))
    for pid in running:
        os.kill(pid, signal.SIGKILL)


def _line() -> bytes:
    """A line, byte by byte: what is read ahead nobody would select for."""
    line = b""
    while (byte := os.read(0, 1)) and byte != b"\n":
        line += byte
    return line


if __name__ == "__main__":
    main()

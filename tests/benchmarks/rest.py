"""What the whole product takes while nobody asks anything of it: `autopilot up` with four simulated GPUs.

Processor time of every process, PostgreSQL's and nats-server's included, over a minute that begins a while after
everything is ready; memory as proportional set size, which counts a page that several processes share once, and as the
sum of resident sets, which counts it for each. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil

from accelerator_autopilot.deploy.local.instance import take_port

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
LIMIT_CORE, LIMIT_MB = 0.05, 500


def named_processes(folder: Path, up: int) -> dict[str, list[int]]:
    """Process ids by name; PostgreSQL's children are with it, workers by themselves."""
    told = json.loads((folder / "processes.json").read_text())
    found = {"up": [up], "worker": []}
    for name, process in told.items():
        children = [child.pid for child in psutil.Process(process["pid"]).children(recursive=True)]
        if name == "pool":
            found["pool"], found["worker"] = [process["pid"]], children
        else:
            found[name] = [process["pid"], *children]
    return found


def cpu_s(pids: list[int]) -> float:
    """Processor seconds so far, those of children that have ended included."""
    total = 0.0
    for pid in pids:
        with suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            total += sum(int(fields[i]) for i in (11, 12, 13, 14)) * TICK_S
    return total


def memory_mb(pids: list[int]) -> tuple[float, float]:
    """Proportional and resident set size, in MB of a million bytes."""
    sums = {"Pss:": 0, "Rss:": 0}
    for pid in pids:
        with suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                name, *rest = line.split()
                if name in sums:
                    sums[name] += int(rest[0])
    return sums["Pss:"] * 1024 / 1e6, sums["Rss:"] * 1024 / 1e6


def measure(folder: Path, up: int, settle_s: float, seconds: float) -> dict[str, object]:
    """Wait for everything to settle, then count."""
    time.sleep(settle_s)
    processes = named_processes(folder, up)
    before, began = {name: cpu_s(pids) for name, pids in processes.items()}, time.monotonic()
    time.sleep(seconds)
    took_s = time.monotonic() - began
    cores = {name: (cpu_s(pids) - before[name]) / took_s for name, pids in processes.items()}
    memory = {name: memory_mb(pids) for name, pids in processes.items()}
    return {
        "name": "rest", "value": round(100 * sum(cores.values()), 2), "unit": "% of a core", "limit": 100 * LIMIT_CORE,
        "pss_mb": round(sum(pss for pss, _ in memory.values()), 1), "pss_limit_mb": LIMIT_MB,
        "rss_mb": round(sum(rss for _, rss in memory.values()), 1), "seconds": seconds,
        "load": [round(each, 2) for each in os.getloadavg()],
        "processes": {
            name: {"core_pct": round(100 * cores[name], 2), "pss_mb": round(memory[name][0], 1)} for name in processes
        },
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="twenty seconds after fifteen of settling")
    arguments = parser.parse_args()
    settle_s, seconds = (15.0, 20.0) if arguments.short else (30.0, 60.0)
    folder = Path(tempfile.mkdtemp(prefix="autopilot-rest-"))
    ports = [f"--nats-port={take_port(0, 'nats')}", f"--gateway-port={take_port(0, 'gateway')}"]
    command = [
        sys.executable,
        "-m",
        "accelerator_autopilot.cli.app",
        "up",
        f"--data-dir={folder}",
        "--simulate=4",
        *ports,
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("ready"), "the product did not start"
        print(json.dumps(measure(folder, process.pid, settle_s, seconds)))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(120)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()

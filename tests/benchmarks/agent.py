"""What the agent costs: processor time, memory and punctuality with eight GPUs, at 1 Hz and at 10 Hz.

The driver is one in memory that answers every reading, so the time is the agent's own; what the
driver's stand-in takes is measured and told apart. The last line is JSON.
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
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nats
import psutil

from deploy.embedded.instance import take_port
from deploy.embedded.servers import nats_binary, wait_for_port
from shared import streams, subjects

GPUS = 8


def install_driver() -> list[float]:
    """NVML in memory; returns a list whose only number is the time spent in it."""
    import pynvml

    spent = [0.0]
    union = SimpleNamespace(dVal=100.0, uiVal=100, ulVal=100, ullVal=100, sllVal=100, siVal=100)
    answers: dict[str, Any] = {
        "nvmlDeviceGetCount": GPUS,
        "nvmlDeviceGetHandleByIndex": lambda index: f"GPU-{index}",
        "nvmlDeviceGetUUID": lambda handle: handle,
        "nvmlDeviceGetName": "Test GPU",
        "nvmlSystemGetDriverVersion": "600.1",
        "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=50, memory=20),
        "nvmlDeviceGetMemoryInfo": SimpleNamespace(used=1 << 30, total=80 << 30, free=79 << 30, reserved=0),
        "nvmlDeviceGetEncoderUtilization": (0, 1),
        "nvmlDeviceGetDecoderUtilization": (0, 1),
        "nvmlDeviceGetComputeRunningProcesses": (),
        "nvmlDeviceGetRemappedRows": (0, 0, 0, 0),
        "nvmlDeviceGetBAR1MemoryInfo": SimpleNamespace(bar1Used=1),
        "nvmlDeviceGetPowerManagementLimitConstraints": (100_000, 700_000),
        "nvmlDeviceGetSupportedEventTypes": 0,
        "nvmlEventSetCreate": "set",
        "nvmlDeviceGetFieldValues": lambda _, ids: [
            SimpleNamespace(nvmlReturn=0, valueType=0, value=union) for _ in ids
        ],
    }
    numbers = {
        "PowerUsage", "Temperature", "ClockInfo", "CurrentClocksEventReasons", "PowerManagementLimit",
        "EnforcedPowerLimit", "MarginTemperature", "FanSpeed_v2", "PerformanceState", "TotalEccErrors",
        "CurrPcieLinkGeneration", "CurrPcieLinkWidth", "TemperatureThreshold", "PowerManagementDefaultLimit",
        "MaxClockInfo",
    }  # fmt: skip
    answers |= {f"nvmlDeviceGet{name}": 100 for name in numbers} | {"nvmlInit": None, "nvmlDeviceRegisterEvents": None}

    def stand_in(name: str) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                if name == "nvmlEventSetWait_v2":
                    raise pynvml.NVMLError(pynvml.NVML_ERROR_TIMEOUT)
                if name not in answers:
                    raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
                answer = answers[name]
                return answer(*arguments) if callable(answer) else answer
            finally:
                spent[0] += time.perf_counter() - began

        return call

    for name in [n for n in dir(pynvml) if n.startswith("nvml") and callable(getattr(pynvml, n))]:
        setattr(pynvml, name, stand_in(name))
    return spent


async def agent(url: str, period_s: float, seconds: float) -> None:
    """The agent's process."""
    spent = install_driver()
    from services.telemetry.agent_app import create_agent
    from services.telemetry.settings import AgentSettings

    settings = AgentSettings(
        nats_url=url, node=f"n{period_s}", period_s=period_s, other_accelerators=False, cpu="never",
        kernel_log=False, data_dir=Path(tempfile.mkdtemp()), log_level="WARNING",
    )  # fmt: skip
    app = create_agent(settings)
    async with app.lifespan_context():
        await app.start()
        # Start and first readings are over: what follows is what an agent costs all day.
        await asyncio.sleep(3.0)
        me = psutil.Process()
        cpu, driver, began = time.process_time(), spent[0], time.monotonic()
        await asyncio.sleep(seconds)
        elapsed = time.monotonic() - began
        used, calls = time.process_time() - cpu, spent[0] - driver
        print(json.dumps({
            "core": (used - calls) / elapsed, "driver_core": calls / elapsed, "rss_mb": me.memory_info().rss / 1e6,
        }))  # fmt: skip
        sys.stdout.flush()
        os._exit(0)


async def measure(url: str, period_s: float, seconds: float) -> dict[str, float]:
    """One agent at one rate, and the punctuality of its frames."""
    from shared.frames import decode  # numpy, which the agent's process must not get from here

    command = [sys.executable, "-m", "tests.benchmarks.agent", "--agent", url, "--period", str(period_s)]
    process = await asyncio.create_subprocess_exec(*command, "--seconds", str(seconds), stdout=subprocess.PIPE)
    out, _ = await process.communicate()
    found: dict[str, float] = json.loads(out.splitlines()[-1])
    connection = await nats.connect(url)
    js = connection.jetstream()
    subscription = await js.pull_subscribe(subjects.frames(f"n{period_s}"), stream="TELEMETRY")
    starts = []
    while True:
        try:
            starts += [decode(m.data).start_us / 1e6 for m in await subscription.fetch(500, timeout=1)]
        except TimeoutError:
            break
    await connection.close()
    late = [at - starts[0] - i * period_s for i, at in enumerate(starts)]
    return found | {"frames": len(starts), "drift_s": late[-1], "latest_s": max(late)}


async def run(seconds: float) -> None:
    folder = Path(tempfile.mkdtemp(prefix="autopilot-agent-"))
    port = take_port(0, "nats")
    server = subprocess.Popen(
        [nats_binary(), "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(folder)], stderr=subprocess.DEVNULL
    )
    try:
        await wait_for_port(port)
        url = f"nats://127.0.0.1:{port}"
        connection = await nats.connect(url)
        await streams.ensure(connection.jetstream())
        await connection.close()
        slow, fast = await measure(url, 1.0, seconds), await measure(url, 0.1, seconds)
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)
    print(
        json.dumps(
            {
                "name": "agent", "value": round(100 * slow["core"], 3), "unit": "% of a core at 1 Hz",
                "baseline": round(100 * slow["driver_core"], 3),
                "ratio": round(slow["core"] / max(1e-9, slow["driver_core"]), 2),
                "limit": 1.0, "rss_mb": round(slow["rss_mb"], 1), "rss_limit_mb": 60, "gpus": GPUS,
                "core_at_10_hz_pct": round(100 * fast["core"], 3), "frames_at_10_hz": fast["frames"],
                "drift_at_10_hz_s": round(fast["drift_s"], 4), "latest_at_10_hz_s": round(fast["latest_s"], 4),
            }
        )
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--agent", help=argparse.SUPPRESS)
    parser.add_argument("--period", type=float, default=1.0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.agent:
        asyncio.run(agent(args.agent, args.period, args.seconds))
    else:
        asyncio.run(run(5.0 if args.short else args.seconds))


if __name__ == "__main__":
    main()

"""The agent's process of the benchmark `agent`: the agent itself, a driver in memory, and next to nothing besides."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil

GPUS = 8
NVLINKS = 18  # of an H100


def install_driver() -> list[float]:
    """NVML in memory; returns a list whose only number is the time spent in it."""
    import pynvml

    spent = [0.0]
    union = SimpleNamespace(dVal=100.0, uiVal=100, ulVal=100, ullVal=100, sllVal=100, siVal=100)
    links = SimpleNamespace(dVal=float(NVLINKS))
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
            SimpleNamespace(
                nvmlReturn=0, valueType=0, value=links if i == pynvml.NVML_FI_DEV_NVLINK_LINK_COUNT else union
            )
            for i in ids
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
    from accelerator_autopilot.runtime.import_exclusions import leave_out_websockets

    leave_out_websockets("nats://")
    from accelerator_autopilot.telemetry.agent.app import create_agent
    from accelerator_autopilot.telemetry.settings import AgentSettings

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--period", type=float, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    args = parser.parse_args()
    asyncio.run(agent(args.url, args.period, args.seconds))


if __name__ == "__main__":
    main()

"""The CPU as an accelerator: psutil for load and memory, RAPL for energy where it can be read."""

from __future__ import annotations

import platform
import time
from pathlib import Path
from typing import Any

import psutil

from services.telemetry.ports import Sample, SourceEvent
from shared.messages.telemetry import DeviceInfo

RAPL = Path("/sys/class/powercap")
DEVICE = "cpu-0"


class CpuSource:
    """One device: all packages of this machine together."""

    name = "cpu"

    def __init__(self, rapl: Path = RAPL) -> None:
        self._packages = sorted(p for p in rapl.glob("intel-rapl:*") if (p / "energy_uj").exists())
        self._last_uj: dict[Path, int] = {}
        self._energy_j = 0.0
        self._energy_at = time.monotonic()
        psutil.cpu_percent()

    def discover(self) -> list[DeviceInfo]:
        """The CPU is always there."""
        model = f"{_model_name()} x{psutil.cpu_count() or 1}"
        memory = psutil.virtual_memory().total
        return [DeviceInfo(device=DEVICE, model=model, vendor="cpu", source="cpu", memory_bytes=memory)]

    def sample(self) -> dict[str, Sample]:
        """Load, memory, clock, and energy where the kernel gives it."""
        memory = psutil.virtual_memory()
        sample: Sample = {
            "gpu_util_pct": psutil.cpu_percent(),
            "memory_used_bytes": float(memory.total - memory.available),
            "memory_total_bytes": float(memory.total),
            "processes": float(len(psutil.pids())),
        }
        frequency = psutil.cpu_freq()
        if frequency and frequency.current:
            sample["clock_sm_mhz"] = float(frequency.current)
        temperature = _package_temperature()
        if temperature is not None:
            sample["temp_c"] = temperature
        return {DEVICE: sample | self._energy()}

    def _energy(self) -> Sample:
        gained = 0.0
        for package in self._packages:
            try:
                now_uj = int((package / "energy_uj").read_text())
                span = int((package / "max_energy_range_uj").read_text())
            except (OSError, ValueError):
                return {}
            gained += (now_uj - self._last_uj.get(package, now_uj)) % span / 1e6
            self._last_uj[package] = now_uj
        if not self._packages:
            return {}
        now = time.monotonic()
        elapsed, self._energy_at = now - self._energy_at, now
        self._energy_j += gained
        return {"energy_j": self._energy_j, "power_w": gained / elapsed if elapsed > 0 else 0.0}

    def poll_events(self) -> list[SourceEvent]:
        """A CPU tells no events."""
        return []

    def close(self) -> None:
        """Nothing is held."""


def _model_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or "CPU"


def _package_temperature() -> float | None:
    read: dict[str, Any] = getattr(psutil, "sensors_temperatures", dict)()
    for chip in ("coretemp", "k10temp", "zenpower", "cpu_thermal"):
        if read.get(chip):
            return float(read[chip][0].current)
    return None

"""CPU packages as accelerators: psutil for load and memory, RAPL for energy, hwmon for temperature.

RAPL: kernel documentation, power/powercap; a package's `energy_uj` wraps at `max_energy_range_uj`.
"""

from __future__ import annotations

import logging
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from accelerator_autopilot.contracts.messages.telemetry import DeviceInfo
from accelerator_autopilot.telemetry.agent.adapters.sysfs import known, read_count, read_number, read_text
from accelerator_autopilot.telemetry.samples import Sample, SourceEvent

log = logging.getLogger(__name__)

SYS = Path("/sys")
_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal")


@dataclass
class _Package:
    number: int
    cpus: list[int]
    rapl: Path | None
    hwmon: Path | None
    energy_j: float = 0.0
    last_uj: float | None = None
    last_s: float = 0.0

    def energy(self, now_s: float) -> Sample:
        """Return the energy since the start, across counter wraps, and the mean power since the last reading."""
        if self.rapl is None:
            return {}
        now_uj, span = read_number(self.rapl / "energy_uj"), read_number(self.rapl / "max_energy_range_uj")
        if now_uj is None or span is None or span <= 0:
            return {}
        before, began, self.last_uj, self.last_s = self.last_uj, self.last_s, now_uj, now_s
        if before is None:
            return {"energy_j": 0.0}
        gained = (now_uj - before) % span / 1e6
        self.energy_j += gained
        return {"energy_j": self.energy_j} | ({"power_w": gained / (now_s - began)} if now_s > began else {})


class CpuSource:
    """One device per package."""

    name = "cpu"

    def __init__(self, root: Path = SYS) -> None:
        self._packages = {f"cpu-{p.number}": p for p in _packages(root)}
        psutil.cpu_percent(percpu=True)

    def discover(self) -> list[DeviceInfo]:
        """Return the CPUs, which are always present."""
        model, memory = _model_name(), psutil.virtual_memory().total
        return [
            DeviceInfo(
                device=device,
                index=package.number,
                model=f"{model} x{len(package.cpus)}",
                vendor="cpu",
                source="cpu",
                memory_bytes=memory,
            )
            for device, package in self._packages.items()
        ]

    def sample(self) -> dict[str, Sample]:
        """Read load, memory (of the node), clock, temperature, and energy where the kernel permits."""
        started = time.monotonic()
        memory, loads = psutil.virtual_memory(), psutil.cpu_percent(percpu=True)
        clocks = _clocks()
        common: Sample = {
            "memory_used_bytes": float(memory.total - memory.available),
            "memory_total_bytes": float(memory.total),
            "processes": float(len(psutil.pids())),
        }
        samples = {}
        for device, package in self._packages.items():
            sample = common | {"gpu_util_pct": _mean([loads[c] for c in package.cpus if c < len(loads)])}
            running = [clocks[c].current for c in package.cpus if c < len(clocks) and clocks[c].current]
            if running:
                sample["clock_sm_mhz"] = _mean(running)
            if package.hwmon is not None:
                sample |= known(
                    temp_c=read_number(package.hwmon / "temp1_input", 1e-3),
                    temp_slowdown_c=read_number(package.hwmon / "temp1_crit", 1e-3),
                )
            samples[device] = sample | package.energy(started) | {"read_time_s": time.monotonic() - started}
        return samples

    def poll_events(self) -> list[SourceEvent]:
        """Return no events; a CPU reports none."""
        return []

    def close(self) -> None:
        """Do nothing: no resources are held."""


def _packages(root: Path) -> list[_Package]:
    cpus: dict[int, list[int]] = {}
    for path in root.glob("devices/system/cpu/cpu[0-9]*/topology/physical_package_id"):
        # The kernel reports -1 when it does not know the package; then all CPUs belong to one.
        number = 0 if read_text(path) == "-1" else read_count(path, below=2**16)
        if number is not None:
            cpus.setdefault(number, []).append(int(path.parent.parent.name[3:]))
    if not cpus:
        cpus = {0: list(range(psutil.cpu_count() or 1))}
    rapl = {read_text(p / "name"): p for p in root.glob("class/powercap/intel-rapl:*") if p.name.count(":") == 1}
    sensors = [p for p in sorted(root.glob("class/hwmon/hwmon*")) if read_text(p / "name") in _SENSORS]
    return [
        _Package(number, sorted(members), rapl.get(f"package-{number}"), sensors[i] if i < len(sensors) else None)
        for i, (number, members) in enumerate(sorted(cpus.items()))
    ]


def _clocks() -> list[Any]:
    """Return clocks by CPU; virtual machines and containers often lack some or all of the files."""
    try:
        return psutil.cpu_freq(percpu=True) or []
    except Exception as error:  # noqa: BLE001  psutil lets through whatever the platform makes of it
        log.debug("clocks not readable", extra={"error": str(error)})
        return []


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _model_name() -> str:
    for line in (read_text(Path("/proc/cpuinfo")) or "").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine() or "CPU"

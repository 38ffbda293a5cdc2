"""NVIDIA Jetson, whose GPU has no NVML, through the files that tegrastats reads.

NVIDIA Jetson Linux Developer Guide, "Power and Thermal Management": GPU load in tenths of a percent, INA3221 rails in
mV and mA, thermal zones in m°C.
"""

from __future__ import annotations

import time
from pathlib import Path

from accelerator_autopilot.contracts.errors import UnavailableError
from accelerator_autopilot.contracts.messages.telemetry import DeviceInfo
from accelerator_autopilot.telemetry.agent.adapters.sysfs import known, read_first, read_number, read_text
from accelerator_autopilot.telemetry.agent.domain.energy import EnergyIntegral
from accelerator_autopilot.telemetry.samples import Sample, SourceEvent

DEVICE = "jetson-gpu-0"
_GPU_RAILS = ("VDD_GPU_SOC", "VDD_CPU_GPU_CV", "VDD_GPU", "GPU")


class JetsonSource:
    """The single GPU of a Jetson module."""

    name = "jetson"

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        model = read_text(root / "proc/device-tree/model")
        if model is None or "NVIDIA" not in model:
            raise UnavailableError("this machine is not a Jetson module")
        self._model = model
        self._integral = EnergyIntegral()

    def discover(self) -> list[DeviceInfo]:
        """Return the GPU, which is soldered on."""
        return [DeviceInfo(device=DEVICE, model=self._model, vendor="nvidia", source="jetson")]

    def sample(self) -> dict[str, Sample]:
        """Read load, clock, temperature and power.

        Raises UnavailableError when no file is readable: the GPU itself cannot be missing.
        """
        sys, started = self._root / "sys", time.monotonic()
        clock = next(iter(sorted(sys.glob("class/devfreq/*gpu*/cur_freq"))), None)
        sample = known(
            gpu_util_pct=read_first([sys / "devices/gpu.0/load", sys / "devices/platform/gpu.0/load"], 0.1),
            clock_sm_mhz=read_number(clock, 1e-6) if clock else None,
            temp_c=self._temperature(sys),
            power_w=self._power(sys),
        )
        if "power_w" in sample:
            self._integral.add([(started, sample["power_w"])])
            sample["energy_j"] = self._integral.energy_j
        if not sample:
            raise UnavailableError("the files of the module's GPU cannot be read")
        return {DEVICE: sample | {"read_time_s": time.monotonic() - started}}

    def _temperature(self, sys: Path) -> float | None:
        for zone in sorted(sys.glob("class/thermal/thermal_zone*")):
            if (read_text(zone / "type") or "").lower().startswith("gpu"):
                return read_number(zone / "temp", 1e-3)
        return None

    def _power(self, sys: Path) -> float | None:
        for hwmon in sorted(sys.glob("class/hwmon/hwmon*")):
            if read_text(hwmon / "name") != "ina3221":
                continue
            for label in sorted(hwmon.glob("in*_label")):
                if read_text(label) in _GPU_RAILS:
                    rail = label.name[2:].removesuffix("_label")
                    volts = read_number(hwmon / f"in{rail}_input", 1e-3)
                    amperes = read_number(hwmon / f"curr{rail}_input", 1e-3)
                    return volts * amperes if volts is not None and amperes is not None else None
        return None

    def poll_events(self) -> list[SourceEvent]:
        """Return no events; the files report none."""
        return []

    def close(self) -> None:
        """Do nothing: no resources are held."""

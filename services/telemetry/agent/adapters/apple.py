"""The GPU of an Apple chip through powermetrics, which needs root: `man powermetrics`, its plist form."""

from __future__ import annotations

import math
import plistlib
import shutil
import subprocess
import time
from collections.abc import Callable
from typing import Any

from accelerator_autopilot.contracts.errors import UnavailableError
from accelerator_autopilot.contracts.messages.telemetry import DeviceInfo
from accelerator_autopilot.telemetry.samples import Sample, SourceEvent

DEVICE = "apple-gpu-0"
COMMAND = ["powermetrics", "--samplers", "gpu_power,cpu_power", "--format", "plist", "-n", "1", "-i", "200"]

# Shorter than the time after which the agent considers a source hung: a hanging tool is not a hanging device.
TOOL_TIMEOUT_S = 2.0


def run_powermetrics() -> bytes:
    """Return one report. Raises OSError and CalledProcessError."""
    return subprocess.run(COMMAND, capture_output=True, check=True, timeout=TOOL_TIMEOUT_S).stdout  # noqa: S603  fixed words


class AppleSource:
    """The single GPU of this chip. Failures of the tool are not failures of the device."""

    name = "apple"
    is_driver = False

    def __init__(self, report: Callable[[], bytes] = run_powermetrics, *, needed: str = COMMAND[0]) -> None:
        if shutil.which(needed) is None:
            raise UnavailableError(f"{needed} is not available on this machine")
        self._report = report

    def discover(self) -> list[DeviceInfo]:
        """Return the GPU, which is part of the chip."""
        return [DeviceInfo(device=DEVICE, model="Apple GPU", vendor="apple", source="apple")]

    def sample(self) -> dict[str, Sample]:
        """Read load (from its idle time), clock and power. Raises UnavailableError when the tool reports nothing."""
        started = time.monotonic()
        try:
            report: dict[str, Any] = plistlib.loads(self._report().rstrip(b"\0"))
            sample = _translate(report)
        except Exception as error:  # plistlib raises a dozen types for bad reports
            raise UnavailableError(f"{COMMAND[0]} returned no report (it needs root): {error}") from error
        if not sample:
            raise UnavailableError(f"{COMMAND[0]} reports nothing about the GPU")
        return {DEVICE: sample | {"read_time_s": time.monotonic() - started}}

    def poll_events(self) -> list[SourceEvent]:
        """Return no events; the tool reports none."""
        return []

    def close(self) -> None:
        """Do nothing: no resources are held."""


def _translate(report: dict[str, Any]) -> Sample:
    gpu = report.get("gpu", {})
    sample: Sample = {}
    if "idle_ratio" in gpu:
        sample["gpu_util_pct"] = 100 * (1 - float(gpu["idle_ratio"]))
    if "freq_hz" in gpu:
        sample["clock_sm_mhz"] = float(gpu["freq_hz"])
    elapsed_s = float(report.get("elapsed_ns", 0)) / 1e9
    if "gpu_energy" in gpu and elapsed_s > 0:
        # The report gives mJ over its own interval; the power is assumed constant between reports.
        sample["power_w"] = float(gpu["gpu_energy"]) / 1e3 / elapsed_s
    return {name: value for name, value in sample.items() if math.isfinite(value)}

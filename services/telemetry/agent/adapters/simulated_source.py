"""Simulated GPUs as a source, for machines without one; marked as simulated wherever they appear."""

from __future__ import annotations

import random
import time

from accelerator_autopilot.contracts.messages.telemetry import DeviceInfo, SimulationRequest
from accelerator_autopilot.telemetry.agent.domain.simulated_gpu import SimulatedGpu
from accelerator_autopilot.telemetry.agent.domain.simulated_models import A40, V100
from accelerator_autopilot.telemetry.errors import PowerControlError
from accelerator_autopilot.telemetry.samples import Sample, SourceEvent

HANG_S = 3600.0
OFF_THE_BUS_XID = 79


class SimulatedSource:
    """A few GPUs with published power curves; their load follows the jobs that run on them."""

    name = "simulated"

    def __init__(self, node: str, count: int, *, seed: int = 0) -> None:
        self._random = random.Random(f"{node}/{seed}")
        models = (V100, A40)
        self._gpus = {f"sim-{node}-{i}": SimulatedGpu(models[i % 2]) for i in range(count)}
        self._events: list[SourceEvent] = []
        self._pinned: set[str] = set()
        self._last = time.monotonic()

    def discover(self) -> list[DeviceInfo]:
        """Return all devices that have not fallen off the bus."""
        return [
            DeviceInfo(
                device=device,
                index=index,
                model=gpu.model.name,
                vendor="nvidia",
                source="simulated",
                simulated=True,
                memory_bytes=gpu.model.memory_bytes,
                power_min_w=gpu.model.min_w,
                power_max_w=gpu.model.max_w,
                power_default_w=gpu.model.max_w,
                clock_max_sm_mhz=gpu.model.clock_max_mhz,
                driver="simulated",
            )
            for index, (device, gpu) in enumerate(self._gpus.items())
        ]

    def sample(self) -> dict[str, Sample]:
        """Advance by the time that passed, and read."""
        now = time.monotonic()
        elapsed, self._last = now - self._last, now
        samples = {}
        for device, gpu in self._gpus.items():
            if gpu.fault == "hang":
                time.sleep(HANG_S)
            gpu.advance(elapsed)
            if gpu.fault != "lost":
                samples[device] = gpu.read(self._random.gauss(0, 1))
        return samples

    def poll_events(self) -> list[SourceEvent]:
        """Return events of faults injected since the last call."""
        events, self._events = self._events, []
        return events

    def set_load(self, device: str, util: float) -> None:
        """Follow the work on a device, unless a request pinned its load."""
        if device in self._gpus and device not in self._pinned:
            self._gpus[device].util = min(1.0, max(0.0, util))

    def request(self, request: SimulationRequest) -> str:
        """Handle a request; returns what is wrong with it, or an empty string."""
        gpu = self._gpus.get(request.device)
        if gpu is None:
            return f"is not simulated here; there are {', '.join(self._gpus) or 'none'}"
        if request.util is not None:
            self._pinned.add(request.device)
            gpu.util = request.util
        if request.fault is not None:
            gpu.put_fault(request.fault, self._random.gauss(0, 1))
            if request.fault == "none":
                self._pinned.discard(request.device)
                self._events.append(SourceEvent(request.device, "reset", message="the simulated fault was removed"))
        if request.xid is not None:
            self._events.append(SourceEvent(request.device, "xid", request.xid, f"simulated XID {request.xid}"))
            if request.xid == OFF_THE_BUS_XID:
                gpu.put_fault("lost")
        return ""

    def set_cap_w(self, device: str, cap_w: float) -> None:
        """Set a power cap. Raises PowerControlError."""
        self._gpu(device).cap_w = cap_w

    def applied_cap_w(self, device: str) -> float:
        """Read the cap back. Raises PowerControlError."""
        return self._gpu(device).cap_w

    def lock_clock_mhz(self, device: str, clock_mhz: float | None) -> None:
        """Limit the clock. Raises PowerControlError."""
        self._gpu(device).clock_mhz = clock_mhz

    def enforced_cap_w(self, device: str) -> float:
        """Read the cap back. Raises PowerControlError."""
        return self._gpu(device).cap_w

    def _gpu(self, device: str) -> SimulatedGpu:
        gpu = self._gpus.get(device)
        if gpu is None or gpu.fault == "lost":
            raise PowerControlError(f"device {device!r} does not exist")
        return gpu

    def close(self) -> None:
        """Do nothing: no resources are held."""

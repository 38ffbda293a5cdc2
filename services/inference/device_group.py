"""The devices that one worker runs on, and how it is told of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shared.messages.telemetry import DeviceInfo


@dataclass(frozen=True)
class DeviceGroup:
    """One device, or several that a worker spreads its models over."""

    devices: tuple[DeviceInfo, ...]

    @property
    def name(self) -> str:
        """Its devices' names."""
        return "+".join(d.device for d in self.devices)

    def environment(self) -> dict[str, str]:
        """Settings of a worker on these devices."""
        first = self.devices[0]
        known = [d.memory_bytes for d in self.devices if d.memory_bytes]
        torch_device = {"nvml": "cuda", "amdsmi": "cuda", "apple": "mps"}.get(first.source, "cpu")
        settings = {"AUTOPILOT_WORKER_DEVICE": self.name, "AUTOPILOT_TORCH_DEVICE": torch_device}
        if known:
            settings["AUTOPILOT_DEVICE_MEMORY_BYTES"] = str(sum(known))
        if first.source == "nvml":
            settings["CUDA_VISIBLE_DEVICES"] = ",".join(d.device for d in self.devices)
        return settings


def group(devices: Sequence[DeviceInfo], size: int) -> list[DeviceGroup]:
    """Groups of `size` devices of one model, in order; what is left over stays unused."""
    groups: list[DeviceGroup] = []
    waiting: dict[str, list[DeviceInfo]] = {}
    for device in devices:
        alike = waiting.setdefault(device.model, [])
        alike.append(device)
        if len(alike) == size:
            groups.append(DeviceGroup(tuple(alike)))
            waiting[device.model] = []
    return groups

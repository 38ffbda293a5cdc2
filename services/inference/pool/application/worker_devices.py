"""The devices that one worker runs on, and the settings that select them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from accelerator_autopilot.contracts.messages.telemetry import DeviceInfo

WATCHED_ONLY = frozenset({"scrape", "replay"})


@dataclass(frozen=True)
class DeviceGroup:
    """One device, or several that a worker distributes its models over."""

    devices: tuple[DeviceInfo, ...]

    @property
    def name(self) -> str:
        """The names of its devices."""
        return "+".join(d.device for d in self.devices)

    def environment(self) -> dict[str, str]:
        """Return the settings of a worker on these devices."""
        first = self.devices[0]
        known = [d.memory_bytes for d in self.devices if d.memory_bytes]
        amd = first.vendor == "amd" and first.source in {"amdsmi", "sysfs"}
        torch_device = "cuda" if amd else {"nvml": "cuda", "apple": "mps"}.get(first.source, "cpu")
        settings = {"AUTOPILOT_WORKER_DEVICE": self.name, "AUTOPILOT_TORCH_DEVICE": torch_device}
        if known:
            settings["AUTOPILOT_DEVICE_MEMORY_BYTES"] = str(sum(known))
        if first.source == "nvml":
            settings["CUDA_VISIBLE_DEVICES"] = ",".join(d.device for d in self.devices)
        elif amd:
            # ROCm's own variable takes the card's number; without it every worker takes the first card.
            settings["HIP_VISIBLE_DEVICES"] = ",".join(str(d.index) for d in self.devices)
        return settings


def places(devices: Sequence[DeviceInfo]) -> list[DeviceInfo]:
    """Return the devices of a node that workers can run on.

    Excludes devices that are only monitored (from an exporter or a recording), GPUs that are split into instances,
    which can run nothing themselves, and the CPU where there is an accelerator.
    """
    split = {d.parent for d in devices if d.parent}
    here = [d for d in devices if d.source not in WATCHED_ONLY and d.device not in split]
    return [d for d in here if d.source != "cpu"] or here


def group(devices: Sequence[DeviceInfo], size: int) -> list[DeviceGroup]:
    """Return groups of `size` devices of one model, in order; left-over devices stay unused."""
    groups: list[DeviceGroup] = []
    waiting: dict[str, list[DeviceInfo]] = {}
    for device in devices:
        same_model = waiting.setdefault(device.model, [])
        same_model.append(device)
        if len(same_model) == size:
            groups.append(DeviceGroup(tuple(same_model)))
            waiting[device.model] = []
    return groups

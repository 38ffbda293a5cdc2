"""Every device of every node, by what decisions need to know of it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from accelerator_autopilot.contracts.messages.telemetry import DeviceInfo
from accelerator_autopilot.scheduler.domain.draining import Device, Epochs


class DeviceFacts(NamedTuple):
    """One device."""

    device: str
    model: str
    simulated: bool
    power_default_w: float | None
    power_min_w: float | None
    driver_epoch: str

    @classmethod
    def of(cls, info: DeviceInfo) -> DeviceFacts:
        """From what its node tells of it."""
        return cls(info.device, info.model, info.simulated, info.power_default_w, info.power_min_w, info.driver_epoch)


@dataclass
class DeviceRegistry:
    """Kept up node by node; a node whose devices are the same again keeps the same object in `nodes`.

    `changed` are nodes that came, went or have other devices; whoever follows the book takes them out one by one.
    """

    nodes: dict[str, tuple[DeviceFacts, ...]] = field(default_factory=dict)
    devices: dict[Device, DeviceFacts] = field(default_factory=dict)
    epochs: dict[Device, Epochs] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)
    _boots: dict[str, str] = field(default_factory=dict)

    def take(self, node: str, boot_id: str, devices: Sequence[DeviceInfo]) -> None:
        """What a node told last."""
        facts = tuple(DeviceFacts.of(info) for info in devices)
        if self.nodes.get(node) != facts:
            self.forget(node)
            self.nodes[node] = facts
            self.changed.add(node)
            for each in facts:
                self.devices[node, each.device] = each
        elif self._boots.get(node) == boot_id:
            return
        self._boots[node] = boot_id
        for each in facts:
            self.epochs[node, each.device] = boot_id, each.driver_epoch

    def forget(self, node: str) -> None:
        """A node that is no longer listed."""
        self._boots.pop(node, None)
        self.changed.add(node)
        for each in self.nodes.pop(node, ()):
            self.devices.pop((node, each.device), None)
            self.epochs.pop((node, each.device), None)

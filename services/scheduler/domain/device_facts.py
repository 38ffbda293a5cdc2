"""What decisions need to know about every device of every node. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from accelerator_autopilot.contracts.messages.telemetry import DeviceInfo
from accelerator_autopilot.scheduler.domain.drain_decisions import Device, Epochs


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
        """Create the facts from what its node reports."""
        return cls(info.device, info.model, info.simulated, info.power_default_w, info.power_min_w, info.driver_epoch)


@dataclass
class DeviceRegistry:
    """Updated node by node; a node whose devices are unchanged keeps the same object in `nodes`.

    `changed` holds nodes that came, went or have other devices; its consumer removes them one by one.
    """

    nodes: dict[str, tuple[DeviceFacts, ...]] = field(default_factory=dict)
    devices: dict[Device, DeviceFacts] = field(default_factory=dict)
    epochs: dict[Device, Epochs] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)
    _boots: dict[str, str] = field(default_factory=dict)

    def take(self, node: str, boot_id: str, devices: Sequence[DeviceInfo]) -> None:
        """Update a node's devices."""
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
        """Forget a node that is no longer listed."""
        self._boots.pop(node, None)
        self.changed.add(node)
        for each in self.nodes.pop(node, ()):
            self.devices.pop((node, each.device), None)
            self.epochs.pop((node, each.device), None)

"""Assign every device a slot: its row in every array that detection keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

NODE = "node"  # stands for the node itself where a device is named


@dataclass
class DeviceSlots:
    """Slots of devices; they are never reused, so that a device that returns finds its history."""

    nodes: list[str] = field(default_factory=list)
    devices: list[str] = field(default_factory=list)
    simulated: list[bool] = field(default_factory=list)
    node_of: list[int] = field(default_factory=list)
    _node_ids: dict[str, int] = field(default_factory=dict)
    _slots: dict[tuple[str, str], int] = field(default_factory=dict)
    _known: dict[tuple[str, tuple[str, ...]], npt.NDArray[np.int64]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.devices)

    def slots(
        self, node: str, devices: Sequence[str], simulated: frozenset[str] = frozenset()
    ) -> npt.NDArray[np.int64]:
        """Return the slots of a node's devices; new devices get new ones."""
        key = (node, tuple(devices))
        known = self._known.get(key)
        if known is None:
            known = np.array([self._slot(node, device, simulated=device in simulated) for device in devices], np.int64)
            self._known[key] = known
        return known

    @property
    def node_names(self) -> list[str]:
        """Every node, in the order of its number in `node_of`."""
        return list(self._node_ids)

    def find(self, node: str, device: str) -> int | None:
        """Return the slot of a device, if it was ever seen."""
        return self._slots.get((node, device))

    def _slot(self, node: str, device: str, *, simulated: bool) -> int:
        slot = self._slots.get((node, device))
        if slot is None:
            slot = self._slots[node, device] = len(self.devices)
            self.nodes.append(node)
            self.devices.append(device)
            self.simulated.append(simulated)
            self.node_of.append(self._node_ids.setdefault(node, len(self._node_ids)))
        return slot

    def snapshot(self) -> list[tuple[str, str, bool]]:
        """Return every slot's node, device and whether it is simulated, in order."""
        return list(zip(self.nodes, self.devices, self.simulated, strict=True))

    @classmethod
    def restore(cls, rows: Sequence[tuple[str, str, bool]]) -> DeviceSlots:
        """Restore a snapshot."""
        roster = cls()
        for node, device, simulated in rows:
            roster._slot(node, device, simulated=simulated)
        return roster

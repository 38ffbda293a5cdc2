"""Which source reads which device, from the nodes' inventories: what affects all its devices is due to the source."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from accelerator_autopilot.contracts.messages.telemetry import NodeInventory

Device = tuple[str, str]

# Readings of these come from third-party exporters: their silence says nothing about a device.
EXPORTERS = ("scrape", "replay")
# Inventories arrive every 30 s, so this is at least two of them.
REMOVED_AFTER = timedelta(seconds=45)


@dataclass
class SourceTopology:
    """The newest inventory of every node."""

    _nodes: dict[str, NodeInventory] = field(default_factory=dict)
    _listed: dict[str, dict[str, str]] = field(default_factory=dict)  # by node, the source of each device
    _source_of: dict[Device, str] = field(default_factory=dict)  # includes devices that are gone
    _gone_since: dict[Device, datetime] = field(default_factory=dict)

    def take(self, inventory: NodeInventory, now: datetime) -> None:
        """Store a node's current inventory."""
        node, before = inventory.node, self._listed.get(inventory.node, {})
        listed = {info.device: info.source for info in inventory.devices}
        self._nodes[node], self._listed[node] = inventory, listed
        self._source_of |= {(node, device): source for device, source in listed.items()}
        for device in before.keys() - listed.keys():
            self._gone_since.setdefault((node, device), now)
        for device in listed:
            self._gone_since.pop((node, device), None)

    def of(self, node: str) -> NodeInventory | None:
        """Return the newest inventory of a node."""
        return self._nodes.get(node)

    def epochs(self, node: str, device: str) -> tuple[str, str]:
        """Return the node's boot and the device's driver load, empty where unreported."""
        inventory = self._nodes.get(node)
        if inventory is None:
            return "", ""
        loads = (info.driver_epoch for info in inventory.devices if info.device == device)
        return inventory.boot_id, next(loads, "")

    def source_peers(self, node: str, device: str) -> frozenset[str]:
        """Return all devices of the same source on the node; none where it is unknown."""
        source = self._source_of.get((node, device))
        return frozenset(name for name, its in self._listed.get(node, {}).items() if its == source)

    def source_fails(self, node: str, device: str) -> bool:
        """Whether the agent reports that the device's source fails."""
        inventory = self._nodes.get(node)
        state = inventory.sources.get(self._source_of.get((node, device), "")) if inventory else None
        return state is not None and state != "ok"

    def from_exporter(self, node: str, device: str) -> bool:
        """Whether the device is read through a third-party exporter."""
        return self._source_of.get((node, device), "").startswith(EXPORTERS)

    def removed(self, inventory: NodeInventory, devices: Iterable[str], now: datetime) -> list[str]:
        """Return those devices that successful discoveries have not found for a while."""
        listed = self._listed.get(inventory.node, {})
        gone = []
        for device in devices:
            source = self._source_of.get((inventory.node, device))
            if device in listed or not self._found_all(inventory, source):
                self._gone_since.pop((inventory.node, device), None)
                continue
            since = self._gone_since.setdefault((inventory.node, device), now)
            # A clock that was set back restarts the wait.
            if since > now:
                self._gone_since[inventory.node, device] = now
            elif now - since >= REMOVED_AFTER:
                gone.append(device)
        return gone

    @staticmethod
    def _found_all(inventory: NodeInventory, source: str | None) -> bool:
        """Whether the discovery that missed a device was successful."""
        if source is not None:
            return inventory.sources.get(source) == "ok"
        return bool(inventory.sources) and all(state == "ok" for state in inventory.sources.values())

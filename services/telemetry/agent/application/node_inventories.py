"""Inventories of the nodes that one agent reports: its own, and the hosts whose exporters it reads."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from accelerator_autopilot.contracts.messages.telemetry import DeviceInfo, NodeInventory
from accelerator_autopilot.transport.clock import utc_now

PutInventory = Callable[[NodeInventory], Awaitable[None]]
OK = "ok"


@dataclass
class NodeInventories:
    """Writes each node's inventory when it changed or is due; a node without devices any more gets an empty one."""

    node: str
    period_s: float
    every_s: float
    epoch_us: int
    put: PutInventory
    expected_devices: int = 0
    _published: dict[str, tuple[dict[str, Any], float]] = field(default_factory=dict)

    async def publish_all(
        self,
        devices: Mapping[str, tuple[DeviceInfo, str]],
        hosts: Mapping[str, str],
        states: Mapping[str, str],
        boot_id: str,
    ) -> None:
        """Publish devices with their source, hosts of devices on other nodes, and the state of sources."""
        nodes: dict[str, dict[str, tuple[DeviceInfo, str]]] = {n: {} for n in [self.node, *self._published]}
        for device, (info, source) in devices.items():
            nodes.setdefault(hosts.get(device, self.node), {})[device] = (info, source)
        for node, its in nodes.items():
            own = node == self.node
            await self._publish(
                NodeInventory(
                    node=node,
                    at=utc_now(),
                    period_s=self.period_s,
                    sources=_states(states, its, every=own),
                    devices=[info for info, _ in its.values()],
                    agent_epoch_us=self.epoch_us,
                    boot_id=boot_id if own else "",
                    expected_devices=self.expected_devices if own else 0,
                )
            )

    async def _publish(self, inventory: NodeInventory) -> None:
        content, now_s = inventory.model_dump(exclude={"at"}), inventory.at.timestamp()
        before, at_s = self._published.get(inventory.node, ({}, 0.0))
        if content != before or not 0 <= now_s - at_s < self.every_s:
            self._published[inventory.node] = (content, now_s)
            await self.put(inventory)


def _states(states: Mapping[str, str], devices: Mapping[str, tuple[DeviceInfo, str]], *, every: bool) -> dict[str, str]:
    """Return the states of sources, also under the name that their devices use: several exporters share "scrape"."""
    reported = dict(states) if every else {}
    families: dict[str, str] = {}
    for info, source in devices.values():
        state = states.get(source, OK)
        reported.setdefault(source, state)
        if info.source not in states and families.get(info.source, OK) == OK:
            families[info.source] = state
    if not every and not devices:
        # A host that left the pages has no source that could fail.
        families["scrape"] = next((s for name, s in states.items() if name.startswith("scrape") and s != OK), OK)
    return reported | families

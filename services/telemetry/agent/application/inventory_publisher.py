"""Publish the node's inventory, and detect a second agent with the same name."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import timedelta

from pydantic import ValidationError

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.errors import UnavailableError
from accelerator_autopilot.contracts.messages.telemetry import NodeInventory
from accelerator_autopilot.runtime.bus import Bus
from accelerator_autopilot.runtime.health import HealthState

log = logging.getLogger(__name__)

RECENT = timedelta(seconds=60)


@dataclass
class InventoryPublisher:
    """Writes the inventory; a failure is retried next time."""

    bus: Bus
    health: HealthState
    conflicts: int = 0
    conflicting: frozenset[str] = frozenset()

    async def put(self, inventory: NodeInventory) -> None:
        """Write, after checking the current entry."""
        key = subjects.token(inventory.node)
        try:
            self.compare(await self._before(key), inventory)
            await self.bus.write("inventory", key, inventory)
        except UnavailableError as error:
            log.warning("inventory not stored", extra={"error": str(error)})

    async def _before(self, key: str) -> NodeInventory | None:
        """Return the current entry; an unreadable one is overwritten like an outdated one."""
        try:
            return await self.bus.read("inventory", key, NodeInventory)
        except ValidationError:
            log.warning("replacing malformed inventory", extra={"key": key})
            return None

    def compare(self, before: NodeInventory | None, ours: NodeInventory) -> None:
        """Detect another agent: an entry that another run wrote after ours started means a shared name."""
        other = (
            before is not None
            and before.agent_epoch_us not in {0, ours.agent_epoch_us}
            and before.at.timestamp() * 1e6 > ours.agent_epoch_us + 1e6
            and ours.at - before.at < RECENT
        )
        if other:
            self.conflicts += 1
            log.error("another agent has this node's name", extra={"node": ours.node, "conflicts": self.conflicts})
        reason = f"another agent is called {ours.node!r} too, or reads its exporter: set AUTOPILOT_NODE on one of them"
        self.conflicting = self.conflicting | {ours.node} if other else self.conflicting - {ours.node}
        self.health.report("node name", ok=not self.conflicting, reason=reason)

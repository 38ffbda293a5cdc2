"""Detect nodes with fewer GPUs than expected: one that is missing since boot sends nothing that could stop. Pure."""

from __future__ import annotations

from accelerator_autopilot.anomaly.domain.device_slots import NODE
from accelerator_autopilot.anomaly.domain.findings import Finding
from accelerator_autopilot.contracts.messages.alerts import Evidence
from accelerator_autopilot.contracts.messages.telemetry import NodeInventory

KIND = "devices_missing"
# Drivers load after the agent, and a reset briefly removes a device: at least two inventories.
OPEN_AFTER_S = 45.0


def missing_devices(inventory: NodeInventory) -> Finding:
    """Return a finding whether the node has fewer whole, real accelerators than expected."""
    there = [i for i in inventory.devices if i.parent is None and not i.simulated and i.vendor != "cpu"]
    fewer = len(there) < inventory.expected_devices
    return Finding(
        inventory.node,
        NODE,
        KIND,
        fewer,
        severity="critical",
        summary=f"{len(there)} of {inventory.expected_devices} GPUs are present",
        action="check for XIDs and bus errors; reseat the missing GPU; reboot the node",
        runbook="docs/reference/alerts.md#devices_missing",
        evidence=(
            Evidence(metric="devices", value=float(len(there)), expected=str(inventory.expected_devices),
                     at=inventory.at),
        ),
        open_after_s=OPEN_AFTER_S,
        at=inventory.at,
    )  # fmt: skip


def all_gone(inventory: NodeInventory) -> Finding | None:
    """Whether a node lists no devices any more: it sends no frames, and its silence is not a fault."""
    return None if inventory.devices else Finding(inventory.node, NODE, "agent_silent", firing=False)

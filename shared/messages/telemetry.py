"""What devices are and what happens to them. Samples travel as frames: see shared.frames."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from shared.messages.base import Message, Name, Timestamp

EventKind = Literal[
    "xid",
    "ecc",
    "row_remap",
    "throttle_on",
    "throttle_off",
    "appeared",
    "lost",
    "probe_hung",
    "probe_recovered",
]


class DeviceInfo(Message):
    """One accelerator: identity, limits and where its numbers come from."""

    device: Name
    index: int = 0
    model: str
    vendor: str = "unknown"
    source: Literal["nvml", "cpu", "simulated", "replay"]
    simulated: bool = False
    memory_bytes: int | None = None
    power_min_w: float | None = None
    power_max_w: float | None = None
    power_default_w: float | None = None
    driver: str | None = None
    pci_bus_id: str | None = None

    @property
    def can_cap(self) -> bool:
        """Whether its power can be capped at all."""
        return None not in (self.power_min_w, self.power_max_w, self.power_default_w)


class NodeInventory(Message):
    """All devices of one node and the state of their sources, newest wins."""

    node: Name
    at: Timestamp
    period_s: float = Field(gt=0)
    devices: list[DeviceInfo]
    sources: dict[str, str] = {}
    agent_version: str = ""


class DeviceEvent(Message):
    """Something that happened to a device at one moment; every occurrence is its own event."""

    id: Name
    node: Name
    device: Name
    at: Timestamp
    kind: str
    code: int | None = None
    message: str = Field(default="", max_length=2000)
    source: str = ""
    simulated: bool = False


class SimulationRequest(Message):
    """Change what a simulated device does: its load, or a fault put in or taken out."""

    device: Name
    util: float | None = Field(default=None, ge=0, le=1)
    fault: Literal["thermal_runaway", "frozen_sensor", "lost", "ecc_dbe", "hang", "none"] | None = None
    xid: int | None = Field(default=None, ge=1, le=999)


class SimulationReply(Message):
    """Whether the request was carried out, and why not."""

    ok: bool
    error: str = ""

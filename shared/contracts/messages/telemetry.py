"""Inventories of devices and events about them. Samples travel as frames: accelerator_autopilot.contracts.frames."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from accelerator_autopilot.contracts.messages.base import (
    BigCount,
    Count,
    Label,
    Message,
    Name,
    OwnedMessage,
    Text,
    Timestamp,
)


class LinkInfo(Message):
    """One NVLink of a device; `errors` is the sum of its replay, recovery and CRC errors."""

    link: Count
    active: bool
    speed_mbps: float | None = None
    remote: Label = ""
    errors: int = Field(default=0, ge=0, lt=2**63)


class ProcessInfo(Message):
    """A process that uses a device, with the details that the agent may see."""

    pid: Count
    started_at: Timestamp
    name: Label = ""
    username: Label = ""
    container: Label = ""
    memory_bytes: BigCount | None = None


class DeviceInfo(Message):
    """One accelerator: identity, limits and the source of its readings."""

    device: Name
    index: Count = 0
    model: Label
    vendor: Label = "unknown"
    source: Label
    simulated: bool = False
    memory_bytes: BigCount | None = None
    power_min_w: float | None = None
    power_max_w: float | None = None
    power_default_w: float | None = None
    driver: Label | None = None
    pci_bus_id: Label | None = None
    parent: Label | None = None
    serial: Label | None = None
    vbios: Label | None = None
    temp_shutdown_c: float | None = None
    temp_mem_max_c: float | None = None
    clock_max_sm_mhz: float | None = None
    clock_max_mem_mhz: float | None = None
    pcie_gen_max: Count | None = None
    pcie_width_max: Count | None = None
    persistence_mode: bool | None = None
    compute_mode: Label | None = None
    ecc_mode: bool | None = None
    mig_mode: bool | None = None
    mig_instance: Count | None = Field(default=None, description="GPU instance id, for a MIG instance")
    mig_profile: Label | None = Field(default=None, description="profile such as 3g.40gb, for a MIG instance")
    can_set_power: bool | None = None
    driver_epoch: Label = Field(default="", description="id of the driver load; changes when the driver is reloaded")
    links: list[LinkInfo] = Field(default=[], max_length=1000)
    processes: list[ProcessInfo] = Field(default=[], max_length=10_000)

    @property
    def can_cap(self) -> bool:
        """Whether its power can be capped at all."""
        return None not in (self.power_min_w, self.power_max_w, self.power_default_w)


class NodeInventory(OwnedMessage):
    """All devices of one node and the state of their sources. The newest one is valid."""

    DEFAULT_ACTOR: ClassVar[str] = "agent"

    node: Name
    at: Timestamp
    period_s: float = Field(gt=0, le=86_400)
    devices: list[DeviceInfo] = Field(max_length=10_000)
    sources: dict[Label, Text] = {}
    agent_version: Label = ""
    agent_epoch_us: int = Field(default=0, ge=0, lt=2**63)
    boot_id: Label = Field(default="", description="the kernel's id of this boot, if known")
    expected_devices: int = Field(default=0, ge=0, le=10_000, description="GPUs that the node must have; 0 if unknown")


class DeviceEvent(OwnedMessage):
    """Something that happened to a device at one moment; every occurrence is its own event.

    Kinds: xid, ecc, ecc_sbe, ecc_sbe_storm, row_remap, row_remap_failed, poison, poison_fatal, recovery_action,
    gpu_unavailable, mig_change, nvlink_up, nvlink_down, throttle_on, throttle_off, appeared, lost, reset, probe_hung,
    probe_recovered, source_failed, source_recovered, agent_conflict, clock_step; for NVSwitches sxid; for AMD's driver
    ring_timeout, ring_reset, reset_started, reset_failed, ras_corrected, ras_uncorrected.

    An `appeared` event has a cause: the agent started and saw the device for the first time, the device returned after
    it was lost, or it returned from a reset. Only `reset` and an `appeared` with that cause prove that a device was
    reset: the node was booted, the driver was reloaded, or the device reported it. `source_failed` is about a source of
    readings, not a device, and `device` is then the source's name.
    """

    DEFAULT_ACTOR: ClassVar[str] = "agent"

    id: Name
    node: Name
    device: Name
    at: Timestamp
    kind: Name
    code: int | None = Field(default=None, ge=-(2**31), lt=2**31)
    message: Text = ""
    source: Label = ""
    simulated: bool = False
    cause: Label = Field(default="", description="cause of `appeared`: agent_started, returned or reset")
    boot_id: Label = Field(default="", description="boot id of the node at that time")
    driver_epoch: Label = Field(default="", description="id of the driver load at that time")


class SimulationRequest(OwnedMessage):
    """Change a simulated device: set its load, or inject or remove a fault."""

    device: Name
    util: float | None = Field(default=None, ge=0, le=1)
    fault: Literal["thermal_runaway", "frozen_sensor", "lost", "ecc_dbe", "hang", "none"] | None = None
    xid: int | None = Field(default=None, ge=1, le=999)


class SimulationReply(Message):
    """Whether the request was carried out, and if not, why."""

    ok: bool
    error: Text = ""

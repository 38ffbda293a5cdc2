"""Whether the kernel has suspended a device: reading it would wake it and drain a laptop's battery.

Files: kernel documentation, ABI/testing/sysfs-devices-power.
"""

from __future__ import annotations

from pathlib import Path

from accelerator_autopilot.telemetry.agent.adapters.sysfs import read_text
from accelerator_autopilot.telemetry.agent.domain.kernel_lines import normal_pci
from accelerator_autopilot.telemetry.samples import Sample

SYS = Path("/sys")
NVIDIA, DISPLAY = "0x10de", "0x03"
# Sample of a suspended device: it is present, nothing failed, and nothing was read.
ASLEEP: Sample = {"read_errors": 0.0}


def is_suspended(device: Path) -> bool:
    """Whether the device of this sysfs folder is suspended."""
    return read_text(device / "power" / "runtime_status") == "suspended"


def is_suspended_at(pci_bus_id: str | None, root: Path = SYS) -> bool:
    """Whether the device at a PCI address is suspended; False where that is unknown."""
    return bool(pci_bus_id) and is_suspended(root / "bus/pci/devices" / f"{normal_pci(pci_bus_id or '')}.0")


def all_suspended(vendor: str, root: Path = SYS) -> bool:
    """Whether a vendor has display devices and all of them are suspended."""
    found = [path for path in root.glob("bus/pci/devices/*") if read_text(path / "vendor") == vendor]
    gpus = [path for path in found if (read_text(path / "class") or "").startswith(DISPLAY)]
    return bool(gpus) and all(is_suspended(path) for path in gpus)

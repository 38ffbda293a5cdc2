"""Find the device that a line of a metrics page belongs to, from its labels. Pure."""

from __future__ import annotations

import re
from typing import NamedTuple

from accelerator_autopilot.contracts.messages.telemetry import DeviceInfo
from accelerator_autopilot.contracts.subjects import MOST_NAME_BYTES
from accelerator_autopilot.telemetry.agent.domain.exporter_names import Line

_HOSTS = ("Hostname", "hostname", "node", "kubernetes_node", "instance")
_UUIDS = ("UUID", "uuid", "gpu_uuid", "serial_number")
_PLACES = ("device", "accelerator_id", "gpu", "gpu_id", "minor_number")
_INDEXES = ("gpu", "gpu_id", "minor_number", "index")
_MODELS = ("modelName", "model", "card_model", "name")
_BARE_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_WHOLE = re.compile(r"[0-9]{1,9}")
_NUMBER = re.compile(r"[0-9]{1,9}$")  # also at the end of a name such as nvidia3
_VENDORS = {"dcgm": "nvidia", "nvidia_smi": "nvidia", "nvidia_gpu": "nvidia", "amd": "amd", "tpu": "google"}


class Owner(NamedTuple):
    """A line's device; `host` and `parent` are empty where the page does not name them."""

    device: str
    host: str
    parent: str


def owner_of(line: Line) -> Owner | None:
    """Return the device that a line is about; None for none, and for NVSwitches, links and CPUs."""
    labels = line.labels
    if labels.get("nvswitch") or labels.get("nvlink") or labels.get("cpu"):
        return None
    host = _first(labels, _HOSTS)
    if "Hostname" not in labels and "hostname" not in labels and "node" not in labels and ":" in host:
        host = host.rpartition(":")[0]
    whole = _first(labels, _UUIDS)
    if whole:
        whole = f"GPU-{whole}" if _BARE_UUID.fullmatch(whole) and line.name.startswith("nvidia_") else whole
    else:
        place = _first(labels, _PLACES)
        # "nvidia0" is unique only within one host.
        whole = f"{host}/{place}" if place and host and not line.name.startswith("autopilot_") else place
    if not whole:
        return None
    instance = labels.get("GPU_I_ID") or labels.get("partition_id", "")
    if not instance or (instance == "0" and "GPU_I_ID" not in labels):
        return Owner(whole, host, "")
    return Owner(f"{whole}/{instance}", host, whole)


def fits(owner: Owner) -> bool:
    """Whether its names satisfy our naming rules."""
    return all(len(name.encode()) <= MOST_NAME_BYTES and "\0" not in name for name in owner)


def describe(line: Line, owner: Owner, dialect: str) -> DeviceInfo:
    """Return the device information in a line; a missing index becomes 0."""
    labels = line.labels
    model = _first(labels, _MODELS) or "unknown"
    index = next((int(n[0]) for name in _INDEXES if (n := _NUMBER.match(labels.get(name, "")))), None)
    if index is None:
        index = int(n[0]) if (n := _NUMBER.search(_first(labels, ("device", "accelerator_id")))) else 0
    instance = labels.get("GPU_I_ID", "")
    return DeviceInfo(
        device=owner.device,
        index=index,
        model=model[:MOST_NAME_BYTES],
        vendor=_VENDORS.get(dialect, "unknown"),
        source="scrape",
        parent=owner.parent or None,
        pci_bus_id=labels.get("pci_bus_id") or None,
        driver=labels.get("DCGM_FI_DRIVER_VERSION") or labels.get("driver_version") or None,
        mig_instance=int(instance) if owner.parent and _WHOLE.fullmatch(instance) else None,
        mig_profile=labels.get("GPU_I_PROFILE") or None,
        mig_mode=True if owner.parent and instance else None,
    )


def _first(labels: dict[str, str], names: tuple[str, ...]) -> str:
    return next((labels[name] for name in names if labels.get(name)), "")

"""Devices under dcgm-exporter's names, units and labels, so that its rules and dashboards work unchanged.

Labels follow its 4.x releases; like the exporter, every field is untyped. An XID's series starts at 0 before the first
one, because `increase()` and `changes()` only see increases from an existing value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from prometheus_client.metrics_core import Metric as Family

from accelerator_autopilot.contracts.metric_catalogue import METRICS
from accelerator_autopilot.telemetry.device_metrics.latest_samples import XID_WINDOW_S, Latest
from accelerator_autopilot.telemetry.samples import Sample

XID_FIELD, XID_COUNT = "DCGM_FI_DEV_XID_ERRORS", "DCGM_EXP_XID_ERRORS_COUNT"
_MIB, _KIB = 2.0**20, 2.0**10


def _scaled(scale: float, *names: str) -> Callable[[Sample], float | None]:
    def add(sample: Sample) -> float | None:
        have = [sample[name] for name in names if name in sample]
        return sum(have) * scale if have else None

    return add


def _share_used(sample: Sample) -> float | None:
    """Return the used share of the usable memory, excluding what the driver reserves."""
    used, total = sample.get("memory_used_bytes"), sample.get("memory_total_bytes")
    usable = (total or 0.0) - sample.get("memory_reserved_bytes", 0.0)
    return used / usable if used is not None and usable > 0 else None


# Fields that are not one of our metrics times a factor, or have a second name in older releases.
DERIVED: tuple[tuple[str, str, Callable[[Sample], float | None]], ...] = (
    ("DCGM_FI_DEV_CLOCK_THROTTLE_REASONS", "why clocks are lowered (older name)", _scaled(1.0, "clock_event_reasons")),
    ("DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL", "bytes over all NVLinks, both ways (MiB)",
     _scaled(1 / _MIB, "nvlink_tx_bytes", "nvlink_rx_bytes")),
    ("DCGM_FI_DEV_PCIE_TX_THROUGHPUT", "bytes sent over PCIe (KiB)", _scaled(1 / _KIB, "pcie_tx_bytes")),
    ("DCGM_FI_DEV_PCIE_RX_THROUGHPUT", "bytes received over PCIe (KiB)", _scaled(1 / _KIB, "pcie_rx_bytes")),
    ("DCGM_FI_DEV_FB_USED_PERCENT", "share of the usable memory in use, 0 to 1", _share_used),
    ("DCGM_FI_DEV_BAR1_USED", "BAR1 memory in use (MiB)", _scaled(1 / _MIB, "bar1_used_bytes")),
    ("DCGM_FI_DEV_SLOWDOWN_TEMP", "where clocks are lowered", _scaled(1.0, "temp_slowdown_c")),
)  # fmt: skip


def dcgm_families(devices: Sequence[Latest], now_s: float) -> Iterator[Family]:
    """Yield every field that any GPU has, and the XIDs of all."""
    gpus = [d for d in devices if d.info is None or d.info.vendor != "cpu"]
    for metric in METRICS:
        if metric.dcgm:
            yield from _family(metric.dcgm, metric.help, gpus, _scaled(metric.dcgm_scale, metric.name))
    for name, text, value in DERIVED:
        yield from _family(name, text, gpus, value)
    xids = Family(XID_FIELD, "last XID, 0 before the first", "gauge")
    counts = Family(XID_COUNT, f"XIDs within the last {XID_WINDOW_S:g} s", "gauge")
    for device in gpus:
        if device.info is not None and device.info.parent:
            continue  # an XID belongs to the whole GPU
        labels = dcgm_labels(device)
        xids.add_sample(XID_FIELD, labels, float(device.last_xid or 0))
        window = {"window_size_in_ms": f"{XID_WINDOW_S * 1e3:.0f}"}
        counted = device.xids_within(now_s)
        for code, times in counted.items():
            counts.add_sample(XID_COUNT, labels | window | {"xid": str(code)}, float(times))
        if not counted:
            counts.add_sample(XID_COUNT, labels | window, 0.0)
    yield xids
    yield counts


def _family(
    name: str, text: str, devices: Sequence[Latest], value_of: Callable[[Sample], float | None]
) -> Iterator[Family]:
    family = Family(name, text, "gauge")
    for device in devices:
        value = value_of(device.sample)
        if value is not None:
            family.add_sample(name, dcgm_labels(device), value)
    if family.samples:
        yield family


def dcgm_labels(device: Latest) -> dict[str, str]:
    """Return the labels that dcgm-exporter gives a GPU; a MIG instance has its GPU's, plus its own id and profile."""
    info = device.info
    labels = {
        "gpu": str(info.index) if info else "",
        "UUID": (info.parent if info else None) or device.device,
        "pci_bus_id": (info.pci_bus_id if info else None) or "",
        "device": f"nvidia{info.index}" if info else "",
        "modelName": info.model.partition(" MIG ")[0] if info else "",
        "Hostname": device.node,
        "DCGM_FI_DRIVER_VERSION": (info.driver if info else None) or "",
    }
    if info and info.parent:
        instance = device.device.rpartition("/")[2] if info.mig_instance is None else str(info.mig_instance)
        labels |= {"GPU_I_ID": instance, "GPU_I_PROFILE": info.mig_profile or info.model.partition(" MIG ")[2]}
    return labels

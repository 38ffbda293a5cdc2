"""AMD and Intel GPUs and Intel NPUs from the kernel's files: drm, accel and hwmon.

File names: kernel documentation, gpu/amdgpu/thermal, ABI/testing/sysfs-driver-intel-i915-hwmon,
sysfs-driver-intel-xe-hwmon; intel_vpu: npu_busy_time_us and related files. Units of hwmon: hwmon/sysfs-interface (µW,
µJ, m°C, Hz).
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from accelerator_autopilot.contracts.messages.telemetry import DeviceInfo
from accelerator_autopilot.telemetry.agent.adapters.runtime_suspend import ASLEEP, is_suspended
from accelerator_autopilot.telemetry.agent.adapters.sysfs import (
    MAX_WORD_BYTES,
    known,
    read_count,
    read_first,
    read_number,
    read_text,
    read_word,
)
from accelerator_autopilot.telemetry.agent.domain.frame_assembly import NO_READING
from accelerator_autopilot.telemetry.errors import PowerControlError
from accelerator_autopilot.telemetry.samples import Sample, SourceEvent

SYS = Path("/sys")
_VENDORS = {"0x1002": "amd", "0x8086": "intel"}


@dataclass
class _Card:
    device: str
    vendor: str
    path: Path
    base: Path
    hwmon: Path | None
    npu: bool = False
    last_busy: tuple[float, float] | None = None
    last_energy: tuple[float, float] | None = None
    was_read: bool = False

    def sensor(self, kind: str, label: str) -> Path | None:
        """Return the hwmon input of a kind, temp or freq, that has this label."""
        if self.hwmon is None:
            return None
        for path in sorted(self.hwmon.glob(f"{kind}*_label")):
            if read_text(path) == label:
                return path.with_name(path.name.replace("_label", "_input"))
        return None


class SysfsSource:
    """All cards of these vendors; NVIDIA cards are read through NVML."""

    name = "sysfs"

    def __init__(self, root: Path = SYS, vendors: Collection[str] = ("amd", "intel")) -> None:
        self._root, self._vendors = root, vendors
        self._cards: dict[str, _Card] = {}

    def discover(self) -> list[DeviceInfo]:
        """Return the cards and NPUs that are present now."""
        self._cards = {card.device: self._cards.get(card.device, card) for card in self._find()}
        return [self._describe(index, card) for index, card in enumerate(self._cards.values())]

    def _find(self) -> Iterator[_Card]:
        for base in sorted(self._root.glob("class/drm/card[0-9]*")):
            if base.name[4:].isdigit():
                yield from self._card(base, npu=False)
        for base in sorted(self._root.glob("class/accel/accel[0-9]*")):
            yield from self._card(base, npu=True)

    def _card(self, base: Path, *, npu: bool) -> Iterator[_Card]:
        path = base / "device"
        vendor = _VENDORS.get(read_text(path / "vendor") or "", "")
        if vendor not in self._vendors:
            return
        address = _pci(path)
        hwmon = next(iter(sorted(path.glob("hwmon/hwmon*"))), None)
        unique = read_word(path / "unique_id")
        name = f"{vendor}-{'npu' if npu else 'gpu'}-{unique or address or base.name}"
        yield _Card(name, vendor, path, base, hwmon, npu)

    def _describe(self, index: int, card: _Card) -> DeviceInfo:
        cap = card.hwmon / "power1_cap" if card.hwmon is not None else None
        low, high, default = (
            read_number(cap.with_name(f"power1_cap_{end}"), 1e-6) if cap is not None else None
            for end in ("min", "max", "default")
        )
        kind = "NPU" if card.npu else "GPU"
        model = read_text(card.path / "product_name") or f"{card.vendor} {kind} {read_text(card.path / 'device') or ''}"
        return DeviceInfo(
            device=card.device,
            index=index,
            model=model.strip(),
            vendor=card.vendor,
            source="sysfs",
            memory_bytes=read_count(card.path / "mem_info_vram_total"),
            power_min_w=low if default is not None else None,
            power_max_w=high if default is not None else None,
            power_default_w=default,
            pci_bus_id=_pci(card.path),
            serial=read_text(card.path / "serial_number"),
            driver=_driver(card.path),
        )

    def sample(self) -> dict[str, Sample]:
        """Read every card; one that is gone is left out, one that is present but unreadable is not lost."""
        samples = {}
        for device, card in self._cards.items():
            started = time.monotonic()
            if not card.path.exists():
                continue
            if is_suspended(card.path):
                samples[device] = dict(ASLEEP)
                continue
            sample = self._npu(card, started) if card.npu else self._gpu(card, started)
            if sample or card.was_read:
                card.was_read = True
                samples[device] = (sample or NO_READING) | {"read_time_s": time.monotonic() - started}
        return samples

    def _gpu(self, card: _Card, now_s: float) -> Sample:
        path, hwmon = card.path, card.hwmon
        sample = known(
            gpu_util_pct=read_number(path / "gpu_busy_percent"),
            mem_util_pct=read_number(path / "mem_busy_percent"),
            memory_used_bytes=read_number(path / "mem_info_vram_used"),
            memory_total_bytes=read_number(path / "mem_info_vram_total"),
            clock_graphics_mhz=read_first(
                [card.base / "gt_cur_freq_mhz", path / "tile0/gt0/freq0/act_freq", path / "tile0/gt0/freq0/cur_freq"]
            ),
        )
        if hwmon is None:
            return sample
        memory, clock, clock_memory = (
            card.sensor("temp", "mem"),
            card.sensor("freq", "sclk"),
            card.sensor("freq", "mclk"),
        )
        sample |= known(
            power_w=read_first([hwmon / "power1_average", hwmon / "power1_input"], 1e-6),
            power_cap_w=read_first([hwmon / "power1_cap", hwmon / "power1_max"], 1e-6),
            power_enforced_w=read_first([hwmon / "power1_cap", hwmon / "power1_max"], 1e-6),
            temp_c=read_number(hwmon / "temp1_input", 1e-3),
            temp_slowdown_c=read_number(hwmon / "temp1_crit", 1e-3),
            temp_mem_c=read_number(memory, 1e-3) if memory else None,
            fan_rpm=read_number(hwmon / "fan1_input"),
            clock_sm_mhz=read_number(clock, 1e-6) if clock else None,
            clock_mem_mhz=read_number(clock_memory, 1e-6) if clock_memory else None,
        )
        speed, highest = read_number(hwmon / "pwm1"), read_number(hwmon / "pwm1_max") or 255.0
        if speed is not None:
            sample["fan_pct"] = 100 * speed / highest
        return sample | self._energy(card, hwmon, now_s, sample)

    def _energy(self, card: _Card, hwmon: Path, now_s: float, sample: Sample) -> Sample:
        energy = read_number(hwmon / "energy1_input", 1e-6)
        if energy is None:
            return {}
        before, card.last_energy = card.last_energy, (now_s, energy)
        if "power_w" in sample or before is None or energy < before[1] or now_s <= before[0]:
            return {"energy_j": energy}
        return {"energy_j": energy, "power_w": (energy - before[1]) / (now_s - before[0])}

    def _npu(self, card: _Card, now_s: float) -> Sample:
        sample = known(
            memory_used_bytes=read_number(card.path / "npu_memory_utilization"),
            clock_sm_mhz=read_number(card.path / "npu_current_frequency_mhz"),
        )
        busy = read_number(card.path / "npu_busy_time_us", 1e-6)
        if busy is not None:
            before, card.last_busy = card.last_busy, (now_s, busy)
            if before is not None and now_s > before[0] and busy >= before[1]:
                sample["gpu_util_pct"] = min(100.0, 100 * (busy - before[1]) / (now_s - before[0]))
        return sample

    def poll_events(self) -> list[SourceEvent]:
        """Return no events; these drivers report none through sysfs."""
        return []

    def set_cap_w(self, device: str, cap_w: float) -> None:
        """Write power1_cap. Raises PowerControlError."""
        path = self._cap_file(device)
        try:
            path.write_text(str(round(cap_w * 1e6)))
        except OSError as error:
            why = " (capping needs root)" if isinstance(error, PermissionError) else ""
            raise PowerControlError(f"{device} did not accept a power cap of {cap_w:g} W: {error}{why}") from error

    def applied_cap_w(self, device: str) -> float:
        """Read power1_cap back. Raises PowerControlError."""
        cap = read_number(self._cap_file(device), 1e-6)
        if cap is None:
            raise PowerControlError(f"{device} does not report its power cap")
        return cap

    def enforced_cap_w(self, device: str) -> float:
        """Return the same: sysfs exposes one limiter. Raises PowerControlError."""
        return self.applied_cap_w(device)

    def _cap_file(self, device: str) -> Path:
        card = self._cards.get(device)
        if card is None or card.hwmon is None or not card.path.exists():
            raise PowerControlError(f"device {device!r} does not exist")
        return card.hwmon / "power1_cap"

    def close(self) -> None:
        """Do nothing: no resources are held."""


def _pci(path: Path) -> str | None:
    address = _uevent_value(path, "PCI_SLOT_NAME")
    return address if address and len(address.encode()) <= MAX_WORD_BYTES else None


def _driver(path: Path) -> str | None:
    return _uevent_value(path, "DRIVER")


def _uevent_value(path: Path, name: str) -> str | None:
    for line in (read_text(path / "uevent") or "").splitlines():
        if line.startswith(f"{name}="):
            return line.partition("=")[2]
    return None

"""Read a whole metrics page: readings, devices, XIDs, and unknown names. Pure."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from accelerator_autopilot.contracts.messages.telemetry import DeviceInfo
from accelerator_autopilot.telemetry.agent.domain.exporter_names import (
    DESCRIPTIONS,
    EXPORTER_PREFIXES,
    XID,
    XID_COUNT,
    Line,
    Meaning,
    is_blank,
    meaning_of,
)
from accelerator_autopilot.telemetry.agent.domain.scrape_devices import Owner, describe, fits, owner_of
from accelerator_autopilot.telemetry.samples import Sample

MAX_DEVICES = 1024
HIGHEST_XID = 100_000
_CODE = re.compile(r"[0-9]{1,5}")
# An exporter repeats board-level metrics for every MIG instance: only these belong to an instance itself.
_OF_AN_INSTANCE = frozenset({
    "gpu_util_pct", "mem_util_pct", "memory_used_bytes", "memory_total_bytes", "memory_free_bytes",
    "memory_reserved_bytes", "sm_util_pct", "sm_occupancy_pct", "tensor_util_pct", "dram_util_pct", "engine_util_pct",
    "processes",
})  # fmt: skip
_MEMORY = ("memory_used_bytes", "memory_total_bytes", "memory_free_bytes", "memory_reserved_bytes")


@dataclass
class PageReading:
    """The content of one page.

    `xids` is the last XID of each device, `xid_counts` how often each code occurred recently.
    """

    samples: dict[str, Sample] = field(default_factory=dict)
    infos: dict[str, DeviceInfo] = field(default_factory=dict)
    hosts: dict[str, str] = field(default_factory=dict)
    xids: dict[str, int] = field(default_factory=dict)
    xid_counts: dict[tuple[str, int], int] = field(default_factory=dict)
    metrics: set[str] = field(default_factory=set)
    unknown: Counter[str] = field(default_factory=Counter)
    misnamed: int = 0
    _repeated: dict[str, Sample] = field(default_factory=dict)
    _described: dict[str, dict[str, object]] = field(default_factory=dict)

    def take(self, line: Line) -> None:
        """Add a line."""
        owner = owner_of(line)
        if line.name in DESCRIPTIONS:
            self._note_description(line, owner)
            return
        meaning = meaning_of(line)
        if meaning is None or owner is None:
            if meaning is None and not line.name.startswith(EXPORTER_PREFIXES):
                self.unknown[line.name] += 1
        elif not fits(owner):
            self.misnamed += 1
        elif owner.device in self.samples or len(self.samples) < MAX_DEVICES:
            self._take(line, owner, meaning)

    def _take(self, line: Line, owner: Owner, meaning: Meaning) -> None:
        whole = owner.parent or owner.device
        self._know(owner, line, meaning)
        if meaning.metric == XID_COUNT:
            code = line.labels.get("xid", "")
            if _CODE.fullmatch(code) and not is_blank(line, meaning):
                key = (whole, int(code))
                self.xid_counts[key] = max(int(line.value), self.xid_counts.get(key, 0))
            return
        if is_blank(line, meaning):
            return
        if meaning.metric == XID:
            if not 0 <= line.value < HIGHEST_XID:
                return
            self.xids[whole] = max(int(line.value), self.xids.get(whole, 0))
            return
        self.metrics.add(line.name)
        value = line.value * meaning.scale
        if not math.isfinite(value):
            return
        if owner.parent and meaning.metric not in _OF_AN_INSTANCE:
            self._repeated.setdefault(whole, {}).setdefault(meaning.metric, value)
        else:
            self.samples[owner.device][meaning.metric] = value

    def _know(self, owner: Owner, line: Line, meaning: Meaning) -> None:
        for device in filter(None, (owner.parent, owner.device)):
            self.samples.setdefault(device, {})
            info = self.infos.get(device)
            its = owner if device == owner.device else Owner(device, owner.host, "")
            if info is None or info.model == "unknown":
                description = describe(line, its, meaning.dialect)
                if its is not owner:
                    description = description.model_copy(update={"mig_profile": None, "mig_mode": True})
                self.infos[device] = description
            elif info.pci_bus_id is None and line.labels.get("pci_bus_id"):
                self.infos[device] = info.model_copy(update={"pci_bus_id": line.labels["pci_bus_id"]})
            if owner.host:
                self.hosts[device] = owner.host

    def _note_description(self, line: Line, owner: Owner | None) -> None:
        if owner is None or not fits(owner):
            return
        if line.name == "nvidia_smi_index":
            said: dict[str, object] = {"index": int(line.value)} if 0 <= line.value < 2**31 else {}
        else:
            known = {"model": line.labels.get("name"), "driver": line.labels.get("driver_version"),
                     "vbios": line.labels.get("vbios_version")}  # fmt: skip
            said = {name: text[:200] for name, text in known.items() if text}
        self._described.setdefault(owner.device, {}).update(said)

    def finish(self) -> None:
        """Derive page-level results: board values belong to the board, totals are summed from their parts."""
        for device, said in self._described.items():
            if device in self.infos:
                self.infos[device] = self.infos[device].model_copy(update=said)
        for device, sample in self._repeated.items():
            self.samples[device] = sample | self.samples[device]
        for sample in self.samples.values():
            _total(sample)
        for device in {info.parent for info in self.infos.values() if info.parent}:
            self._add_up_memory(device)
        for device, info in self.infos.items():
            total = self.samples[device].get("memory_total_bytes")
            if total is not None and 0 <= total < 2.0**62:
                self.infos[device] = info.model_copy(update={"memory_bytes": int(total)})

    def _add_up_memory(self, board: str) -> None:
        """Sum the board's memory from its parts, for a page that lists only instances."""
        parts = [self.samples[d] for d, info in self.infos.items() if info.parent == board]
        sample = self.samples[board]
        if not any(name in sample for name in _MEMORY):
            for name in _MEMORY:
                have = [part[name] for part in parts if name in part]
                if have and len(have) == len(parts):
                    sample[name] = sum(have)


def read_page(lines: Iterable[Line]) -> PageReading:
    """Return everything that a page reports."""
    reading = PageReading()
    for line in lines:
        reading.take(line)
    reading.finish()
    return reading


def _total(sample: Sample) -> None:
    """Derive the total memory, which dcgm-exporter's default counters omit."""
    if "memory_total_bytes" not in sample and {"memory_used_bytes", "memory_free_bytes"} <= sample.keys():
        parts = ("memory_used_bytes", "memory_free_bytes", "memory_reserved_bytes")
        sample["memory_total_bytes"] = sum(sample.get(name, 0.0) for name in parts)

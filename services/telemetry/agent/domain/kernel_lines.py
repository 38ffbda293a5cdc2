"""Parse kernel log lines about accelerators, in all formats that drivers have used. Pure.

Formats: NVIDIA/open-gpu-kernel-modules (kernel_rc.c: XIDs with the MIG instance; os.c: GPUs that are off the bus), its
older drivers (no "PCI:"), nvidia-nvswitch (SXids), and the Linux kernel's amdgpu (amdgpu_device.c, amdgpu_ras.c).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_PCI = r"(?:PCI:)?(?P<pci>(?:[0-9a-fA-F]{1,8}:)?[0-9a-fA-F]{2}:[0-9a-fA-F]{2}(?:\.[0-9a-fA-F])?)"
_XID = re.compile(rf"NVRM: Xid \({_PCI}(?: [^)]*)?\): (?P<code>\d{{1,9}})\b(?P<rest>.*)")
_SXID = re.compile(rf"\bSXid \({_PCI}\): (?P<code>\d{{1,9}})\b(?P<rest>.*)")
_OFF_THE_BUS = re.compile(rf"NVRM: (?:The NVIDIA )?GPU (?:at )?{_PCI}\b.*?fallen off the bus", re.DOTALL)
_ITS_NAME = re.compile(rf"NVRM: The NVIDIA GPU {_PCI}\s*$")
_ITS_LOSS = re.compile(r"NVRM:\s+fallen off the bus")
_AMD = re.compile(rf"\bamdgpu {_PCI}: (?:amdgpu: )?(?P<rest>.*)", re.DOTALL)
_AMD_FORMS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("ras_uncorrected", re.compile(r"\b[1-9]\d* (?:new )?uncorrect\w+ hardware errors? detected|uncorrectable hardware "
                                   r"error\(|RAS: fatal error|GPU: .*fatal error", re.IGNORECASE)),
    ("ras_corrected", re.compile(r"\b[1-9]\d* (?:new )?(?:correct\w+|deferred) hardware errors? detected",
                                 re.IGNORECASE)),
    ("reset_failed", re.compile(r"GPU reset end with ret = -[1-9]|GPU recovery (?:disabled|failed)|"
                                r"GPU reset(?:\(\d+\))? failed|asic reset failed", re.IGNORECASE)),
    ("reset", re.compile(r"GPU reset(?:\(\d+\))? succeeded|GPU reset end with ret = 0\b", re.IGNORECASE)),
    ("reset_started", re.compile(r"GPU reset begin", re.IGNORECASE)),
    ("ring_timeout", re.compile(r"\bring \S+ timeout\b|\bring \S+ (?:test|reset) failed", re.IGNORECASE)),
    ("ring_reset", re.compile(r"\bring \S+ reset succe", re.IGNORECASE)),
)  # fmt: skip
_STAMP = re.compile(r"^\d+,\d+,(?P<us>\d{1,19}),")
# XID 154 reports both directions; a change back to none means that the driver considers the device reset.
RECOVERY_XID, OFF_THE_BUS_XID = 154, 79
_RECOVERED = re.compile(r"\bto (?:0x0+|0)?\s*\(?None\)?", re.IGNORECASE)
ONE_LOSS_US = 60_000_000


@dataclass(frozen=True)
class KernelFact:
    """What happened to the device at a PCI address; `switch` means that it is an NVSwitch."""

    pci: str
    kind: str
    code: int | None
    text: str
    switch: bool = False


@dataclass
class KernelLines:
    """Parses lines in order: a lost GPU may be named one line before the loss is reported, and reported twice."""

    _named: str = ""
    _lost_us: dict[str, int] = field(default_factory=dict)

    def read(self, line: str) -> KernelFact | None:
        """Return the facts in a line, or in a record of several lines."""
        text = line.replace("\\x0a", "\n")
        named, self._named = self._named, ""
        if (found := _XID.search(text)) is not None:
            return self._xid(line, found)
        if (found := _SXID.search(text)) is not None:
            return KernelFact(normal_pci(found["pci"]), "sxid", int(found["code"]), found[0], switch=True)
        if "NVRM:" in text:
            return self._loss(line, text, named)
        found = _AMD.search(text)
        return _amd(normal_pci(found["pci"]), found["rest"], found[0]) if found is not None else None

    def _loss(self, line: str, text: str, named: str) -> KernelFact | None:
        if (found := _OFF_THE_BUS.search(text)) is not None:
            return self._off_the_bus(line, normal_pci(found["pci"]), found[0])
        if named and _ITS_LOSS.search(text):
            return self._off_the_bus(line, named, text)
        # Lines between the name and the loss identify the card.
        found = _ITS_NAME.search(text)
        self._named = normal_pci(found["pci"]) if found is not None else named
        return None

    def _xid(self, line: str, found: re.Match[str]) -> KernelFact:
        pci, code = normal_pci(found["pci"]), int(found["code"])
        if code == OFF_THE_BUS_XID:
            self._note_loss(line, pci)
        kind = "reset" if code == RECOVERY_XID and _RECOVERED.search(found["rest"]) else "xid"
        return KernelFact(pci, kind, code, found[0])

    def _off_the_bus(self, line: str, pci: str, text: str) -> KernelFact | None:
        """The same loss is usually reported as XID 79 too; some drivers omit that."""
        reported = self._note_loss(line, pci)
        return None if reported else KernelFact(pci, "xid", OFF_THE_BUS_XID, " ".join(text.split()))

    def _note_loss(self, line: str, pci: str) -> bool:
        """Whether the loss was reported just before, by the kernel's own clock."""
        stamp = _STAMP.match(line)
        if stamp is None:
            return False
        now_us, before_us = int(stamp["us"]), self._lost_us.get(pci)
        self._lost_us[pci] = now_us
        return before_us is not None and 0 <= now_us - before_us <= ONE_LOSS_US


def _amd(pci: str, rest: str, text: str) -> KernelFact | None:
    kind = next((kind for kind, form in _AMD_FORMS if form.search(rest)), None)
    return KernelFact(pci, kind, None, text) if kind else None


def normal_pci(address: str) -> str:
    """Normalise the PCI address formats of NVML (00000000:3B:00.0), the kernel and exporters."""
    parts = address.strip().lower().split(":")
    try:
        *domain, bus, slot = parts
        return f"{int(domain[0], 16) if domain else 0:04x}:{bus}:{slot.partition('.')[0]}"
    except ValueError:
        return address.lower()

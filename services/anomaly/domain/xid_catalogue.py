"""The catalogue of XID codes: meaning, whether the application is at fault, and what to do.

Sources: NVIDIA, "XID Errors" (docs.nvidia.com/deploy/xid-errors) and its catalogue's actions; the application errors
are the list in NVIDIA/k8s-device-plugin, internal/rm/health.go. Codes from 122 on: the catalogue of driver 580 and
NVIDIA/open-gpu-kernel-modules, nverror.h.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from accelerator_autopilot.contracts.messages.alerts import Severity

Action = Literal[
    "none", "restart_job", "reset_device", "drain", "reboot", "replace", "power_smoothing", "reduced_memory"
]


@dataclass(frozen=True)
class Xid:
    """One code."""

    meaning: str
    severity: Severity
    action: Action
    application: bool = False


def _job(meaning: str) -> Xid:
    return Xid(meaning, "info", "restart_job", application=True)


CATALOGUE: dict[int, Xid] = {
    8: _job("GPU stopped processing"),
    11: _job("invalid or corrupted push buffer"),
    12: Xid("driver error handling GPU exception", "warning", "restart_job"),
    13: _job("graphics engine exception, such as an illegal address of a kernel"),
    16: Xid("display engine hung", "warning", "reset_device"),
    18: Xid("bus mastering disabled in PCI configuration", "critical", "reboot"),
    31: _job("memory page fault of an application"),
    32: Xid("invalid or corrupted push buffer over PCIe", "warning", "restart_job"),
    37: _job("driver firmware error of an application"),
    38: Xid("driver firmware error", "warning", "reset_device"),
    43: _job("the channel of an application was stopped"),
    44: Xid("graphics engine fault during a context switch", "warning", "restart_job"),
    45: _job("a context was torn down, often after another error"),
    46: Xid("GPU stopped processing", "critical", "reset_device"),
    48: Xid("double-bit memory error", "critical", "reset_device"),
    54: Xid("auxiliary power is not connected", "critical", "replace"),
    56: Xid("display engine error", "warning", "reset_device"),
    57: Xid("error programming the video memory interface", "warning", "reset_device"),
    58: Xid("unstable video memory interface", "critical", "reset_device"),
    61: Xid("internal micro-controller breakpoint", "warning", "reset_device"),
    62: Xid("internal micro-controller halt", "critical", "reset_device"),
    63: Xid("memory row remapping or page retirement recorded", "warning", "reset_device"),
    64: Xid("memory row remapping or page retirement failed", "critical", "replace"),
    66: Xid("illegal access by the driver", "warning", "restart_job"),
    68: _job("video processor exception"),
    69: _job("graphics engine class error"),
    74: Xid("NVLink error", "critical", "reset_device"),
    79: Xid("GPU has fallen off the bus", "critical", "reboot"),
    80: Xid("corrupted data sent to the GPU", "warning", "reset_device"),
    92: Xid("high rate of corrected memory errors", "warning", "drain"),
    94: Xid("contained memory error", "warning", "restart_job"),
    95: Xid("uncontained memory error", "critical", "reset_device"),
    109: _job("context switch timeout"),
    110: Xid("security fault", "critical", "reboot"),
    119: Xid("GSP does not respond", "critical", "reset_device"),
    120: Xid("GSP error", "critical", "reset_device"),
    121: Xid("error of the link between CPU and GPU, corrected", "warning", "reset_device"),
    122: Xid("SPI read failed in the power management unit", "warning", "reset_device"),
    123: Xid("power management unit did not respond", "critical", "reset_device"),
    124: Xid("SPI erase failed in the power management unit", "warning", "reset_device"),
    125: Xid("InfoROM file system error", "warning", "drain"),
    136: Xid("link training failed", "critical", "reset_device"),
    137: Xid("NVLink fatal privilege error", "warning", "restart_job"),
    140: Xid("unrecovered memory error", "critical", "reset_device"),
    143: Xid("GPU initialisation failed", "critical", "reboot"),
    144: Xid("NVLink 5 error, SAW", "critical", "reset_device"),
    145: Xid("NVLink 5 error, RLW", "critical", "reset_device"),
    146: Xid("NVLink 5 error, TLW", "critical", "reset_device"),
    147: Xid("NVLink 5 error, TREX", "critical", "reset_device"),
    148: Xid("NVLink 5 error, NVLPW_CTRL", "critical", "reset_device"),
    149: Xid("NVLink 5 error, NETIR", "critical", "reset_device"),
    150: Xid("NVLink 5 error, MSE", "critical", "reset_device"),
    151: Xid("key rotation error", "warning", "restart_job"),
    152: Xid("memory management error of the deep learning accelerator", "info", "none"),
    153: Xid("deep learning accelerator timed out", "info", "none"),
    154: Xid("the GPU's recovery action has changed", "critical", "drain"),
    155: Xid("NVLink software error", "warning", "reset_device"),
    156: Xid("resource retirement recorded", "warning", "reset_device"),
    157: Xid("resource retirement failed", "critical", "replace"),
    158: Xid("fatal GPU timeout", "critical", "reset_device"),
    159: Xid("error of the link between CPU and GPU, no data lost", "warning", "drain"),
    160: Xid("GPU memory channel retired, repair at the next reset", "warning", "reset_device"),
    161: Xid("GPU memory channel retirement failed", "critical", "replace"),
    162: Xid("power smoothing works again", "info", "none"),
    163: Xid("power smoothing stopped because of heat or a timeout", "info", "power_smoothing"),
    164: Xid("power smoothing circuit is near the end of its life", "info", "power_smoothing"),
    165: Xid("power smoothing circuit is worn out", "warning", "power_smoothing"),
    166: Xid("traffic on a link before it was set up for encryption", "warning", "reset_device"),
    167: Xid("fatal timeout on PCIe", "critical", "reset_device"),
    168: Xid("memory reduced because of errors in a protected region", "critical", "reduced_memory"),
    169: Xid("security micro-controller halted", "critical", "reset_device"),
    170: Xid("interrupt in confidential computing mode", "warning", "reset_device"),
    171: Xid("uncorrected DRAM error in addition to another", "info", "none"),
    172: Xid("uncorrected SRAM error in addition to another", "info", "none"),
    173: Xid("fatal error of the link between CPU and GPU", "critical", "reset_device"),
}
UNKNOWN = Xid("not in the catalogue", "warning", "drain")

ADVICE: dict[Action, str] = {
    "none": "nothing to do: another code reports the fault",
    "restart_job": "check the job that ran, and restart it",
    "reset_device": "drain; reset the GPU",
    "drain": "drain; run diagnostics",
    "reboot": "drain; reboot the node; reseat the GPU if the error returns",
    "replace": "drain; replace the GPU",
    "power_smoothing": "no reset: check temperature and power swings; replace the GPU only if smoothing is required",
    "reduced_memory": "drain; enable ECC so that rows can be remapped; reboot the node",
}


def look_up(code: int) -> Xid:
    """Return the catalogue's entry for a code."""
    return CATALOGUE.get(code, UNKNOWN)

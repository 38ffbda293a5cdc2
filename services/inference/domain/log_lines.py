"""Parse log lines: their time, their severity, and known messages of GPU software. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

ISO = re.compile(r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}:\d{2}(?:[.,]\d+)?(?:Z|[+-]\d{2}:?\d{2})?")
SYSLOG = re.compile(r"^(?:<\d+>)?([A-Z][a-z]{2}) +(\d{1,2}) (\d{2}):(\d{2}):(\d{2})")
MONTHS = {
    m: i for i, m in enumerate(["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"], 1)
}
FATAL = re.compile(r"\b(?:FATAL|CRITICAL|PANIC|EMERG|segfault|Traceback|core dumped|aborted|killed)\b", re.IGNORECASE)
ERROR = re.compile(r"\b(?:ERROR|ERR|SEVERE|[A-Z]\w*(?:Error|Exception)|failed|failure|exception)\b")
ERROR_ANY = re.compile(r"\b(?:error|failed|failure|exception)\b", re.IGNORECASE)
HARMLESS = re.compile(
    r"\b(?:0|no|without) (?:errors?|failures?)\b|error[_ ]?(?:rate|count)\s*[=:]\s*0\b", re.IGNORECASE
)
CALM = re.compile(r"\b(?:INFO|DEBUG|TRACE|NOTICE)\b")
WARNING = re.compile(r"\bWARN(?:ING)?\b", re.IGNORECASE)


@dataclass(frozen=True)
class Pattern:
    """What a message of GPU software means.

    `depth` ranks causes: hardware causes what software then reports.
    """

    kind: str
    rule: re.Pattern[str]
    meaning: str
    depth: int


PATTERNS = (
    Pattern(
        "xid", re.compile(r"NVRM: Xid[^:(]*+(?:\([^()]*+\))?: (\d+)"), "the NVIDIA driver reports a device error", 5
    ),
    Pattern(
        "device_lost",
        re.compile(r"GPU has fallen off the bus|Unable to determine the device handle", re.IGNORECASE),
        "a GPU is gone",
        5,
    ),
    Pattern(
        "ecc",
        re.compile(r"uncorrectable (?:ECC|memory) error|double.bit ECC|row remapp", re.IGNORECASE),
        "GPU memory is damaged",
        5,
    ),
    Pattern(
        "host_oom",
        re.compile(r"Out of memory: Kill(?:ed)? process|oom-kill|oom_reaper", re.IGNORECASE),
        "the kernel killed a process for host memory",
        4,
    ),
    Pattern(
        "gpu_oom",
        re.compile(r"CUDA out of memory|OutOfMemoryError|CUDA_ERROR_OUT_OF_MEMORY|HIP out of memory", re.IGNORECASE),
        "a device's memory was too small",
        4,
    ),
    Pattern(
        "network",
        re.compile(
            # Each alternative only searches up to the next occurrence of its own beginning.
            r"\bNET/(?:IB|Socket)\b(?:(?!NET/).)*(?:fail|error|timeout)|IBV_WC_|link (?:is )?down"
            r"|mlx5_(?:(?!mlx5_).)*error",
            re.IGNORECASE,
        ),
        "the network between nodes failed",
        4,
    ),
    Pattern(
        "disk_full",
        re.compile(r"No space left on device|ENOSPC|Disk quota exceeded", re.IGNORECASE),
        "a disk is full",
        4,
    ),
    Pattern(
        "cuda",
        re.compile(r"CUDA error|CUDA_ERROR_\w+|cudaError\w+|device-side assert|illegal memory access", re.IGNORECASE),
        "a CUDA call failed",
        3,
    ),
    Pattern(
        "nccl",
        re.compile(
            r"NCCL (?:WARN|error)|ncclSystemError|ncclRemoteError|ncclUnhandledCudaError|"
            r"Watchdog caught collective operation timeout|NCCL communicator was aborted",
            re.IGNORECASE,
        ),
        "collective communication between devices failed",
        2,
    ),
)


def timestamp(line: str, year: int = 1970) -> datetime | None:
    """Return when a line was written, in UTC unless it says otherwise; syslog lines lack the year."""
    head = line[:120]
    match = ISO.search(head)
    if match:
        try:
            found = datetime.fromisoformat(match.group().replace(",", "."))
        except ValueError:
            return None
        return found if found.tzinfo else found.replace(tzinfo=UTC)
    match = SYSLOG.match(head)
    if match and match[1] in MONTHS:
        try:
            day, hour, minute, second = (int(match[i]) for i in range(2, 6))
            return datetime(year, MONTHS[match[1]], day, hour, minute, second, tzinfo=UTC)
        except ValueError:
            return None
    return None


def badness(line: str) -> int:
    """Return 0 for ordinary lines, 1 for warnings, 2 for errors, 3 for fatal errors."""
    if pattern_of(line):
        return 3 if FATAL.search(line) else 2
    # An explicit level takes precedence: INFO about an "error" handler is not an error.
    if HARMLESS.search(line) or CALM.search(line[:120]):
        return 0
    if FATAL.search(line):
        return 3
    if ERROR.search(line) or ERROR_ANY.search(line):
        return 2
    return 1 if WARNING.search(line) else 0


def pattern_of(line: str) -> Pattern | None:
    """Return the known message of GPU software in a line, if any."""
    return next((p for p in PATTERNS if p.rule.search(line)), None)

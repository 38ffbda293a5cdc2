"""Whether this process may change power limits: NVML requires root or CAP_SYS_ADMIN."""

from __future__ import annotations

import os
import re
from pathlib import Path

_CAP_SYS_ADMIN = 21  # its number in linux/capability.h


def may_control_power(status: Path = Path("/proc/self/status")) -> bool:
    """Check this process's effective capabilities or, where they are unknown, its user."""
    try:
        found = re.search(r"^CapEff:\s*([0-9a-f]+)$", status.read_text(errors="replace"), re.MULTILINE)
    except OSError:
        found = None
    if found is None:
        return os.geteuid() == 0
    return bool(int(found[1], 16) >> _CAP_SYS_ADMIN & 1)

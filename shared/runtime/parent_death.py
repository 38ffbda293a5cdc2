"""The signal that the kernel sends to a process when its parent dies (prctl(2), Linux)."""

from __future__ import annotations

import ctypes
import signal
import sys

PR_SET_PDEATHSIG, PR_GET_PDEATHSIG = 1, 2


def end_with_parent() -> None:
    """Get SIGTERM when the parent dies, for `preexec_fn`; other systems have no such signal."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

"""XIDs from the kernel log, where the NVIDIA driver writes lines such as this.

NVRM: Xid (PCI:0000:3b:00): 79, pid=1234, name=python, GPU has fallen off the bus.

/dev/kmsg gives one record a read, "priority,sequence,µs,flags;text" (kernel documentation, ABI/testing/dev-kmsg).
"""

from __future__ import annotations

import errno
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path

from services.telemetry.ports import SourceEvent

log = logging.getLogger(__name__)

KMSG = Path("/dev/kmsg")
_XID = re.compile(
    r"NVRM: Xid \(PCI:(?P<pci>[0-9a-fA-F:.]+)\): (?P<code>\d+)(?:, pid='?(?P<pid>\d+|<unknown>)'?)?(?P<rest>.*)"
)
MOST_AT_ONCE = 1000


class KernelLog:
    """Follows the kernel log from where it is now. `device_of` finds a device by its PCI address."""

    def __init__(self, device_of: Callable[[str], str | None], path: Path = KMSG) -> None:
        self._device_of = device_of
        self._file = -1
        try:
            self._file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            os.lseek(self._file, 0, os.SEEK_END)
        except OSError as error:
            log.info("kernel log not readable, XIDs come from NVML alone", extra={"error": str(error)})

    @property
    def readable(self) -> bool:
        """Whether this process may read it."""
        return self._file >= 0

    def poll(self) -> list[SourceEvent]:
        """XIDs since the last call."""
        events: list[SourceEvent] = []
        for _ in range(MOST_AT_ONCE):
            record = self._read()
            if not record:
                break
            for line in record.splitlines():
                event = self.parse(line)
                if event is not None:
                    events.append(event)
        return events

    def _read(self) -> str:
        if self._file < 0:
            return ""
        try:
            return os.read(self._file, 8192).decode(errors="replace")
        except BlockingIOError:
            return ""
        except OSError as error:
            # Records were overwritten before we read them: the next read goes on with the oldest that is left.
            if error.errno == errno.EPIPE:
                return "overwritten"
            log.warning("kernel log failed", extra={"error": str(error)})
            return ""

    def parse(self, line: str) -> SourceEvent | None:
        """The event that a line tells of, when the device is one of ours."""
        found = _XID.search(line)
        if found is None:
            return None
        device = self._device_of(normal_pci(found["pci"]))
        if device is None:
            log.warning("XID of a device that is not known", extra={"pci": found["pci"], "code": found["code"]})
            return None
        return SourceEvent(device, "xid", int(found["code"]), found[0][:500], origin="kernel")


def normal_pci(address: str) -> str:
    """Domain, bus and device of a PCI address, as both NVML (00000000:3B:00.0) and the kernel write it."""
    domain, _, rest = address.lower().partition(":")
    bus, _, slot = rest.partition(":")
    return f"{int(domain, 16):04x}:{bus}:{slot.partition('.')[0]}"

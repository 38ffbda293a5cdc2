"""Driver messages in the kernel log: XIDs, lost GPUs, NVSwitch errors, AMD resets and RAS errors.

/dev/kmsg returns one record per read, "priority,sequence,µs,flags;text" (kernel documentation, ABI/testing/dev-kmsg).
"""

from __future__ import annotations

import errno
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path

from accelerator_autopilot.telemetry.agent.domain.kernel_lines import KernelLines
from accelerator_autopilot.telemetry.samples import SourceEvent

log = logging.getLogger(__name__)

KMSG = Path("/dev/kmsg")
_SEQUENCE = re.compile(r"^\d+,(\d{1,19}),")
MAX_AT_ONCE = 1000


class KernelLog:
    """Follows the kernel log. `device_of` finds a device by its PCI address.

    It starts after record `reported`, the last one reported in this boot, or at the end if there is none; with `whole`
    it starts at the boot, since earlier reports belong to another boot.
    """

    def __init__(
        self,
        device_of: Callable[[str], str | None],
        path: Path = KMSG,
        *,
        reported: int = -1,
        whole: bool = False,
        boot_id: str = "",
    ) -> None:
        self._device_of, self._boot_id = device_of, boot_id
        self.sequence = reported
        self._lines = KernelLines()
        self._file = -1
        try:
            self._file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            if reported < 0 and not whole:
                self._skip()
        except OSError as error:
            log.info("kernel log not readable; XIDs come from NVML alone", extra={"error": str(error)})

    @property
    def readable(self) -> bool:
        """Whether this process may read the log."""
        return self._file >= 0

    def poll(self) -> list[SourceEvent]:
        """Return events since the last call."""
        events: list[SourceEvent] = []
        for _ in range(MAX_AT_ONCE):
            record = self._read()
            if not record:
                break
            for line in record.splitlines():
                if not self._is_new(line):
                    continue
                event = self.parse(line)
                if event is not None:
                    events.append(event)
        return events

    def _skip(self) -> None:
        """Skip to the end, noting its sequence number so that the next run can continue from there."""
        while record := self._read():
            for line in record.splitlines():
                self._is_new(line)

    def _is_new(self, line: str) -> bool:
        """Whether a record has not been reported before; records without a number always count as new."""
        found = _SEQUENCE.match(line)
        if found is None:
            return True
        number, before = int(found[1]), self.sequence
        self.sequence = max(number, before)
        return number > before

    def _read(self) -> str:
        if self._file < 0:
            return ""
        try:
            return os.read(self._file, 8192).decode(errors="replace")
        except BlockingIOError:
            return ""
        except OSError as error:
            # Records were overwritten before they were read: the next read continues with the oldest one
            # left.
            if error.errno == errno.EPIPE:
                return "overwritten"
            log.warning("kernel log failed", extra={"error": str(error)})
            return ""

    def parse(self, line: str) -> SourceEvent | None:
        """Return the event in a line, if it concerns one of our devices."""
        fact = self._lines.read(line)
        if fact is None:
            return None
        device = f"nvswitch-{fact.pci}" if fact.switch else self._device_of(fact.pci)
        if device is None:
            log.warning("kernel log line about an unknown device", extra={"pci": fact.pci, "code": fact.code})
            return None
        number = _SEQUENCE.match(line)
        occurrence = f"{self._boot_id}:{number[1]}" if number and self._boot_id else ""
        return SourceEvent(device, fact.kind, fact.code, fact.text[:500], origin="kernel", occurrence=occurrence)

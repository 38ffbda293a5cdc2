"""What drivers write into the kernel log: XIDs, lost GPUs, errors of NVSwitches, resets and RAS errors of AMD's.

/dev/kmsg gives one record a read, "priority,sequence,µs,flags;text" (kernel documentation, ABI/testing/dev-kmsg).
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
MOST_AT_ONCE = 1000


class KernelLog:
    """Follows the kernel log. `device_of` finds a device by its PCI address.

    It begins after record `told`, the last that was told of in this boot, or at the end where none was;
    with `whole` it begins at the boot: what was told before was of another.
    """

    def __init__(
        self,
        device_of: Callable[[str], str | None],
        path: Path = KMSG,
        *,
        told: int = -1,
        whole: bool = False,
        boot_id: str = "",
    ) -> None:
        self._device_of, self._boot_id = device_of, boot_id
        self.sequence = told
        self._lines = KernelLines()
        self._file = -1
        try:
            self._file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            if told < 0 and not whole:
                self._skip()
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
                if not self._is_new(line):
                    continue
                event = self.parse(line)
                if event is not None:
                    events.append(event)
        return events

    def _skip(self) -> None:
        """Go to the end, taking note of its number, so that the next run can go on from there."""
        while record := self._read():
            for line in record.splitlines():
                self._is_new(line)

    def _is_new(self, line: str) -> bool:
        """Whether a line's record was not told of before; lines without a number always are."""
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
            # Records were overwritten before we read them: the next read goes on with the oldest that is left.
            if error.errno == errno.EPIPE:
                return "overwritten"
            log.warning("kernel log failed", extra={"error": str(error)})
            return ""

    def parse(self, line: str) -> SourceEvent | None:
        """The event that a line tells of, when the device is one of ours."""
        fact = self._lines.read(line)
        if fact is None:
            return None
        device = f"nvswitch-{fact.pci}" if fact.switch else self._device_of(fact.pci)
        if device is None:
            log.warning("kernel line of a device that is not known", extra={"pci": fact.pci, "code": fact.code})
            return None
        number = _SEQUENCE.match(line)
        occurrence = f"{self._boot_id}:{number[1]}" if number and self._boot_id else ""
        return SourceEvent(device, fact.kind, fact.code, fact.text[:500], origin="kernel", occurrence=occurrence)

"""Send a worker's lines to its pool without ever blocking."""

from __future__ import annotations

import os
import stat


class StatusPipe:
    """Writes to a file descriptor. A line that does not fit into a full pipe is dropped; a partial one is completed."""

    def __init__(self, fd: int) -> None:
        self._fd, self._rest = fd, b""
        if stat.S_ISFIFO(os.fstat(fd).st_mode):
            os.set_blocking(fd, False)

    def send(self, line: str) -> bool:
        """Send a line; returns whether the pool will read it now or later."""
        try:
            if self._rest:
                self._rest = self._rest[os.write(self._fd, self._rest) :]
            if self._rest:
                return False
            data = line.encode() + b"\n"
            self._rest = data[os.write(self._fd, data) :]
        except BlockingIOError:
            return False
        return True

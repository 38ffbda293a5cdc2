"""A worker's lines to its pool, which never wait for the pool to read them."""

from __future__ import annotations

import os
import stat


class StatusPipe:
    """Writes to a file descriptor. What a full pipe does not take is left out; a line that was begun is ended."""

    def __init__(self, fd: int) -> None:
        self._fd, self._rest = fd, b""
        if stat.S_ISFIFO(os.fstat(fd).st_mode):
            os.set_blocking(fd, False)

    def tell(self, line: str) -> bool:
        """Whether the pool may read this line now or later."""
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

"""How nats-server reports that it cannot write: in its log, and by disabling JetStream."""

from __future__ import annotations

import re
from pathlib import Path

from nats.aio.client import Client
from nats.js.errors import APIError, ServiceUnavailableError

from accelerator_autopilot.runtime.bus import BUS_ERRORS

# Of the server's own store: text from clients comes after their address.
_REFUSED = re.compile(
    rb"^\[\d+\] \S+ \S+ \[\w+\] (?:JetStream|Filestore)\b.*(?:no space left on device|disk quota exceeded)$",
    re.MULTILINE,
)
MAX_BYTES = 2**20
NOT_ENABLED = frozenset({10076, 10039})  # of the server, of the account


class WriteErrors:
    """Write errors in a server's log, from now on."""

    def __init__(self, log_file: Path) -> None:
        self._log_file = log_file
        self._position = 0
        self.skip()

    def skip(self) -> None:
        """Ignore what is already there."""
        self._position = self._log_file.stat().st_size if self._log_file.exists() else 0

    def seen(self) -> bool:
        """Return whether there are any new ones. Raises OSError."""
        if not self._log_file.exists():
            return False
        size = self._log_file.stat().st_size
        # A rotated log is shorter; of one that grew by very much, its end is enough.
        start = max(self._position if size >= self._position else 0, size - MAX_BYTES)
        with self._log_file.open("rb") as file:
            file.seek(start)
            text = file.read(size - start)
        whole = text[: text.rfind(b"\n") + 1]
        self._position = start + len(whole)
        return _REFUSED.search(whole) is not None


async def jetstream_is_off(nc: Client) -> bool:
    """Return whether a responding server reports that it has no JetStream; False where that is unknown."""
    try:
        await nc.jetstream(timeout=2.0).account_info()
    except ServiceUnavailableError:
        # Nobody subscribes to such requests: only a running server says so.
        return nc.is_connected
    except APIError as error:
        return error.err_code in NOT_ENABLED
    except BUS_ERRORS:
        return False
    return False

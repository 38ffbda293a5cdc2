"""Tell the server's status of a request apart from headers that a publisher wrote.

nats-py takes any message with a header `Status` for the server's own status. One such message in a stream would be
redelivered forever: every fetch that includes it fails, and the consumer stalls. The server sends its status in the
first line of the headers and never in a message of a stream, which has a reply subject to acknowledge (NATS ADR-4,
ADR-37).
"""

from __future__ import annotations

import re
from typing import Any

from nats.aio.client import Client

_VERSION = b"NATS/1.0"
_STATUS = re.compile(rb"NATS/1\.0 \d{3}(?: [ -~]*)?")
_ACKNOWLEDGED = b"$JS.ACK."
_FIELD = re.compile(rb"\r\n[ \t]*status[ \t]*:[^\r\n]*", re.IGNORECASE)
_process_msg = Client._process_msg  # noqa: SLF001  the library has no other place between the wire and its own reading


def without_claims(headers: bytes, reply: bytes) -> bytes:
    """Return the headers without a status that is not the server's, and with a first line that the library can read."""
    first, _, rest = _FIELD.sub(b"", headers).partition(b"\r\n")
    if first != _VERSION and (reply.startswith(_ACKNOWLEDGED) or not _STATUS.fullmatch(first)):
        first = _VERSION
    return first + b"\r\n" + (rest or b"\r\n")


async def _process_told_apart(self: Client, sid: int, subject: bytes, reply: bytes, data: bytes, headers: Any) -> None:
    clean = without_claims(bytes(headers), bytes(reply)) if headers else headers
    await _process_msg(self, sid, subject, reply, data, clean)


def install() -> None:
    """Patch how every connection parses headers; safe to call twice."""
    Client._process_msg = _process_told_apart  # type: ignore[method-assign]  # noqa: SLF001  see above

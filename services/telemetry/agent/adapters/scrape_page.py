"""Fetch metrics pages within limits on time and size, and parse them line by line: a bad line costs only itself.

The text format: prometheus.io, "Exposition formats".
"""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from accelerator_autopilot.contracts.errors import UnavailableError
from accelerator_autopilot.telemetry.agent.domain.exporter_names import Line

TIMEOUT_S = 2.0
MAX_BYTES = 16 * 2**20
_PIECE = 2**16
MAX_LINE = 2**14
# Possessive: matched blanks are not backtracked into, or a long run would be tried in every division.
_LINE = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*+)(?:\s*+\{(.*)\})?\s++(\S++)(?:\s++-?\d++)?+\s*+(?:#.*+)?+$")
_LABEL = re.compile(r'\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*"((?:[^"\\]|\\.)*)"\s*(?:,|$)')
_ESCAPES = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}


@dataclass
class Page:
    """The lines of a page; `bad` counts invalid ones."""

    text: str
    bad: int = 0

    @property
    def cut(self) -> bool:
        """Whether the page ends within a line."""
        return bool(self.text) and not self.text.endswith("\n")

    def lines(self) -> Iterator[Line]:
        """Yield every valid line. An unterminated last line may contain half a number and is skipped."""
        found = self.text.split("\n")
        rest = found.pop()
        self.bad += bool(rest.strip()) and not rest.startswith("#")
        for text in found:
            stripped = text.strip()
            if not stripped or stripped.startswith("#"):
                continue
            line = _parse(stripped)
            if line is None:
                self.bad += 1
            else:
                yield line


def _parse(text: str) -> Line | None:
    found = _LINE.match(text) if len(text) <= MAX_LINE else None
    if found is None:
        return None
    labels: dict[str, str] = {}
    position, inside = 0, found[2] or ""
    while position < len(inside.rstrip()):
        label = _LABEL.match(inside, position)
        if label is None:
            return None
        labels[label[1]] = re.sub(r'\\[\\"n]', lambda m: _ESCAPES[m[0]], label[2])
        position = label.end()
    try:
        return Line(found[1], labels, float(found[3]))
    except ValueError:
        return None


def fetch_page(url: str, timeout_s: float = TIMEOUT_S) -> str:
    """Fetch a complete metrics page. Raises UnavailableError when it is too slow, too large or truncated."""
    parts = urlsplit(url)
    make = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = make(parts.hostname or "", parts.port, timeout=timeout_s)
    # A socket timeout applies to each chunk; a slowly dripping exporter is cut off by the total time.
    opened: list[socket.socket] = []
    cutter = threading.Timer(timeout_s, _cut, (opened,))
    cutter.daemon = True
    ends = time.monotonic() + timeout_s
    try:
        cutter.start()
        connection.connect()
        opened.append(connection.sock)
        connection.request("GET", (parts.path or "/") + (f"?{parts.query}" if parts.query else ""))
        reply = connection.getresponse()
        if reply.status != http.client.OK:
            raise UnavailableError(f"{url} answers {reply.status} {reply.reason}"[:200])
        return _read(url, reply, ends)
    except (OSError, http.client.HTTPException, ssl.SSLError, ValueError) as error:
        raise UnavailableError(f"{url} does not answer: {type(error).__name__}: {error}"[:200]) from error
    finally:
        cutter.cancel()
        connection.close()


def _read(url: str, reply: http.client.HTTPResponse, ends: float) -> str:
    declared, body = reply.length, bytearray()
    while piece := reply.read(_PIECE):
        body += piece
        if len(body) > MAX_BYTES:
            raise UnavailableError(f"{url} has more than {MAX_BYTES} bytes")
    if time.monotonic() >= ends:
        raise UnavailableError(f"{url} took too long")
    if declared is not None and len(body) < declared:
        raise UnavailableError(f"{url} ended after {len(body)} of {declared} bytes")
    return body.decode("utf-8", "replace")


def _cut(opened: list[socket.socket]) -> None:
    for connection in opened:
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)

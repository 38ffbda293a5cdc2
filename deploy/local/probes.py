"""Probe whether a server or service on this machine is alive, through its own endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

TIMEOUT_S = 2.0
# PostgreSQL's SSLRequest: answered with one byte before authentication, even during recovery.
SSL_REQUEST = (8).to_bytes(4, "big") + (80877103).to_bytes(4, "big")


def service_lives(port: int) -> Callable[[], Awaitable[bool]]:
    """Return a probe of a service's /livez."""

    async def read() -> bool:
        connecting = asyncio.open_connection("127.0.0.1", port)
        answer = await _ask(connecting, b"GET /livez HTTP/1.0\r\n\r\n", b"\r\n")
        return b" 200 " in answer

    return read


def nats_lives(port: int) -> Callable[[], Awaitable[bool]]:
    """Return a probe of nats-server: it greets every connection."""

    async def read() -> bool:
        return (await _ask(asyncio.open_connection("127.0.0.1", port), b"", b"\r\n")).startswith(b"INFO")

    return read


async def postgres_lives(socket_path: str) -> bool:
    """Return whether the postmaster answers on its socket."""
    return await _ask(asyncio.open_unix_connection(socket_path), SSL_REQUEST, b"") != b""


async def _ask(
    connecting: Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]], request: bytes, until: bytes
) -> bytes:
    """Return the answer: up to `until`, or one byte; empty when nothing answers in time."""
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(TIMEOUT_S):
            reader, writer = await connecting
            if request:
                writer.write(request)
            return await reader.readuntil(until) if until else await reader.readexactly(1)
    except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        return b""
    finally:
        if writer is not None:
            writer.close()
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(TIMEOUT_S):
                    await writer.wait_closed()

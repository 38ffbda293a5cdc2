"""A TCP proxy on a link between two processes that can cut it, stall it and make it slow."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

Condition = Literal["fine", "cut", "stalled", "slow"]
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
SLOW_LATENCY_S = 0.2
CHUNK = 64 * 1024


def tcp_target(port: int) -> Callable[[], Awaitable[Streams]]:
    """Connects to a port of this machine."""
    return lambda: asyncio.open_connection("127.0.0.1", port)


def socket_target(path: Callable[[], str]) -> Callable[[], Awaitable[Streams]]:
    """Connects to a Unix socket whose path is known only later."""
    return lambda: asyncio.open_unix_connection(path())


@dataclass(eq=False)
class _Connection:
    """One client's connection; its name is what it told the NATS server, else empty."""

    writers: list[asyncio.StreamWriter]
    name: str = ""

    def abort(self) -> None:
        for writer in self.writers:
            writer.transport.abort()


@dataclass
class LinkProxy:
    """Listens on a port and passes bytes to a target; a fault holds for clients whose name has a prefix."""

    target: Callable[[], Awaitable[Streams]]
    port: int = 0
    condition: Condition = "fine"
    prefix: str = ""
    _open: set[_Connection] = field(default_factory=set)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Listen no more and end every connection."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._open):
            connection.abort()

    def set(self, condition: Condition, prefix: str = "") -> None:
        """Put the link into a condition, for clients of this name or all."""
        self.condition, self.prefix = condition, prefix
        self._changed.set()
        self._changed = asyncio.Event()
        if condition == "cut":
            for connection in list(self._open):
                if connection.name.startswith(prefix):
                    connection.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.condition == "cut" and not self.prefix:
            writer.transport.abort()
            return
        try:
            far_reader, far_writer = await self.target()
        except OSError:
            writer.transport.abort()
            return
        connection = _Connection([writer, far_writer])
        self._open.add(connection)
        ways = [
            asyncio.create_task(self._pass(connection, reader, far_writer, from_client=True)),
            asyncio.create_task(self._pass(connection, far_reader, writer)),
        ]
        try:
            # An end of either way ends both: neither NATS nor PostgreSQL knows connections closed by half.
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            self._open.discard(connection)
            connection.abort()

    async def _pass(
        self,
        connection: _Connection,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        from_client: bool = False,
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(CHUNK):
                if from_client and data.startswith(b"CONNECT "):
                    connection.name = _name(data)
                await self._hold(connection)
                writer.write(data)
                await writer.drain()

    async def _hold(self, connection: _Connection) -> None:
        while connection.name.startswith(self.prefix) and self.condition != "fine":
            if self.condition == "cut":
                raise ConnectionResetError
            if self.condition == "slow":
                await asyncio.sleep(SLOW_LATENCY_S)
                return
            await self._changed.wait()


def _name(data: bytes) -> str:
    try:
        return str(json.loads(data[len(b"CONNECT ") : data.index(b"\r\n")]).get("name", ""))
    except ValueError:
        return ""

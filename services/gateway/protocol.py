"""uvicorn's HTTP/1.1 with a time by which a request's headers must be there: it has none of its own."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

HEADERS_S = 10.0


class TimedProtocol(H11Protocol):
    """Closes a connection on which nothing, or half a request, comes."""

    headers_s = HEADERS_S
    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there: the clock runs."""
        super().connection_made(transport)
        self._waiting = self.loop.call_later(self.headers_s, self._late)

    def data_received(self, data: bytes) -> None:
        """Bytes came; the clock stops when they complete the headers."""
        super().data_received(data)
        if self._answering():
            self._stop()
        elif self._waiting is None and not self.transport.is_closing():
            self._waiting = self.loop.call_later(self.headers_s, self._late)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        self._stop()
        super().connection_lost(exc)

    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _stop(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _late(self) -> None:
        self._waiting = None
        if not self._answering():
            self.transport.abort()

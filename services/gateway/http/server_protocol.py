"""uvicorn's HTTP/1.1 with timeouts in both directions: for headers that do not arrive, and responses nobody reads."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

HEADERS_S = 10.0
# A complete response may be buffered for its reader, also long after the route has returned.
RESPONSE_READ_TIMEOUT_S = 30.0


class TimedProtocol(H11Protocol):
    """Closes connections that are idle, send half a request, or do not read their response."""

    headers_s, taken_s = HEADERS_S, RESPONSE_READ_TIMEOUT_S
    _waiting: asyncio.TimerHandle | None = None
    _reading: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timer for a new connection."""
        super().connection_made(transport)
        self._waiting = self.loop.call_later(self.headers_s, self._late)

    def data_received(self, data: bytes) -> None:
        """Stop the timer when the headers are complete."""
        super().data_received(data)
        if self._answering():
            self._stop()
        elif self._waiting is None and not self.transport.is_closing():
            self._waiting = self.loop.call_later(self.headers_s, self._late)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer: the client has disconnected."""
        self._stop()
        self._all_taken()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Start the timer: the client is slow to read."""
        super().pause_writing()
        self._all_taken()
        self._look_again()

    def resume_writing(self) -> None:
        """Stop the timer: the client has read most of the response."""
        super().resume_writing()
        self._all_taken()

    def _look_again(self) -> None:
        left = self.transport.get_write_buffer_size()
        self._reading = self.loop.call_later(self.taken_s, self._look, left)

    def _look(self, before: int) -> None:
        if self.transport.get_write_buffer_size() >= before:
            self.transport.abort()
        else:
            self._look_again()

    def _all_taken(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

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

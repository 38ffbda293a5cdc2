"""Fan one subscription out to all HTTP clients that follow it, with a bounded queue for each."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Generic, TypeVar

from fastapi import Request

from accelerator_autopilot.contracts.errors import BusyError

T = TypeVar("T")


class _Listener:
    def __init__(self, depth: int) -> None:
        self.waiting: deque[str] = deque(maxlen=depth)
        self.ready = asyncio.Event()

    def put(self, text: str) -> None:
        # A full queue drops its oldest event: slow readers see less, and cost no more.
        self.waiting.append(text)
        self.ready.set()


class EventFanout(Generic[T]):
    """Reads a source while anybody listens; each event is serialised once for all."""

    def __init__(
        self,
        source: Callable[[], AsyncGenerator[T, None]],
        serialize: Callable[[T], str],
        *,
        depth: int,
        failed: Callable[[Exception], None],
    ) -> None:
        self._source, self._serialize, self._depth, self._failed = source, serialize, depth, failed
        self._listeners: set[_Listener] = set()
        self._wanted = asyncio.Event()

    async def run(self) -> None:
        """Read until cancelled."""
        while True:
            await self._wanted.wait()
            async with aclosing(self._source()) as source:
                async for item in source:
                    if not self._listeners:
                        break
                    try:
                        text = self._serialize(item)
                    except Exception as error:  # noqa: BLE001  one item costs its readers no other
                        self._failed(error)
                        continue
                    for listener in self._listeners:
                        listener.put(text)
            if not self._listeners:
                self._wanted.clear()

    async def listen(self) -> AsyncIterator[str]:
        """Yield events from now on."""
        listener = _Listener(self._depth)
        self._listeners.add(listener)
        self._wanted.set()
        try:
            while True:
                await listener.ready.wait()
                listener.ready.clear()
                while listener.waiting:
                    yield listener.waiting.popleft()
        finally:
            self._listeners.discard(listener)


class StreamLimit:
    """Limits how many streams the user of a key has open."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: Counter[str] = Counter()

    def enter(self, request: Request) -> None:
        """Count a request's stream until the request ends. Raises BusyError when there are too many."""
        user: str = request.state.caller.user
        if self._open[user] >= self._most:
            raise BusyError(f"{user} already follows {self._most} streams, the maximum", 5.0)
        self._open[user] += 1
        request.state.cleanups.append(lambda: self._leave(user))

    def _leave(self, user: str) -> None:
        self._open[user] -= 1
        if not self._open[user]:
            del self._open[user]


def counted(request: Request) -> None:
    """Count this request as a stream, as a dependency. Raises BusyError."""
    limit: StreamLimit = request.app.state.streams
    limit.enter(request)

"""Read request bodies with a size limit, a minimum rate and a memory budget, and parse them off the event loop."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request

from accelerator_autopilot.contracts.errors import BusyError

Receive = Callable[[], Awaitable[Any]]

FIRST_BYTES_S = 10.0
MIN_BYTES_PER_S = 64 * 1024
SMALL_BODY = 2**20
# Parsed JSON takes several times the memory of its text; the memory depends on the number of values.
MAX_VALUES = 1_000_000
VALUE_BYTES = 100
MAX_DEPTH = 100
OFFLOAD_BYTES = 64 * 1024
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_HUGE_EXPONENT = re.compile(r"[eE]\+?[0-9]{3}")


class BodyTooLargeError(HTTPException):
    """The body has more bytes or values than the route accepts."""

    def __init__(self, detail: str) -> None:
        super().__init__(413, detail)


@dataclass
class MemoryBudget:
    """A budget for the estimated memory of all bodies while their requests last, in bytes."""

    limit: int
    taken: int = 0

    def take(self, amount: int) -> None:
        """Reserve memory. Raises BusyError when the budget is exhausted."""
        if self.taken + amount > self.limit:
            raise BusyError(f"the requests in progress take {self.taken} of {self.limit} bytes", 1.0)
        self.taken += amount

    def give_back(self, amount: int) -> None:
        """Release a request's memory."""
        self.taken -= amount


class Share:
    """One request's share of the budget."""

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget, self._taken = budget, 0

    def take(self, amount: int) -> None:
        """Reserve memory. Raises BusyError."""
        self._budget.take(amount)
        self._taken += amount

    def give_back(self) -> None:
        """Release all of it."""
        self._budget.give_back(self._taken)
        self._taken = 0


async def read_body(receive: Receive, declared: int | None, limit: int, share: Share) -> bytes | None:
    """Read the whole body; None when the client disconnected.

    Raises BodyTooLargeError past `limit` bytes, BusyError past the budget, and HTTPException (408) for a body that
    arrives slower than `MIN_BYTES_PER_S` after `FIRST_BYTES_S`.
    """
    loop = asyncio.get_running_loop()
    began, chunks, size = loop.time(), [], 0
    if declared is not None and declared > limit:
        raise BodyTooLargeError(f"the body has {declared} bytes; at most {limit} are allowed")
    while True:
        try:
            async with asyncio.timeout_at(began + FIRST_BYTES_S + size / MIN_BYTES_PER_S):
                message = await receive()
        except TimeoutError:
            raise HTTPException(408, f"the body arrived at less than {MIN_BYTES_PER_S} bytes per second") from None
        if message["type"] != "http.request":
            return None
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise BodyTooLargeError(f"the body may have at most {limit} bytes")
        share.take(len(chunk))
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)


def count_values(body: bytes, most: int) -> int:
    """Return an upper bound of the number of values in a JSON text; counting stops soon after `most`."""
    quick = 1 + sum(body.count(sign) for sign in (b",", b"[", b"{"))
    if quick <= most:
        return quick
    # Strings contain commas too, so those are excluded where it matters.
    found, position = 1, 0
    for text in _STRING.finditer(body):
        found += sum(body.count(sign, position, text.start()) for sign in (b",", b"[", b"{"))
        position = text.end()
        if found > most:
            return found
    return found + sum(body.count(sign, position) for sign in (b",", b"[", b"{"))


async def weigh(body: bytes, share: Share) -> None:
    """Reserve memory for the parsed body. Raises BodyTooLargeError for too many values, and BusyError."""
    if len(body) < OFFLOAD_BYTES:
        values = count_values(body, MAX_VALUES)
    else:
        values = await asyncio.to_thread(count_values, body, MAX_VALUES)
    if values > MAX_VALUES:
        raise BodyTooLargeError(f"the body may contain at most {MAX_VALUES} values")
    share.take(values * VALUE_BYTES)


def parse(body: bytes) -> Any:
    """Parse a body as JSON. Raises HTTPException (422) that says what is wrong with it."""
    try:
        text = body.decode()
        finite = _finite if _HUGE_EXPONENT.search(text) else None
        value = json.loads(text, parse_constant=_no_constant, parse_float=finite)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError:
        raise
    except UnicodeError:
        raise HTTPException(422, "the body is not valid UTF-8, or contains half of a surrogate pair") from None
    except RecursionError:
        raise HTTPException(422, f"the body may be nested at most {MAX_DEPTH} levels deep") from None
    except ValueError as error:
        raise HTTPException(422, f"the body is not valid JSON: {error}") from None
    if text.count("[") + text.count("{") > MAX_DEPTH and _deeper_than(value, MAX_DEPTH):
        raise HTTPException(422, f"the body may be nested at most {MAX_DEPTH} levels deep")
    return value


class JsonRequest(Request):
    """A request whose JSON is validated while parsing, off the event loop when it is large."""

    async def json(self) -> Any:
        """Return the body's value. Raises HTTPException and JSONDecodeError."""
        body = await self.body()
        return parse(body) if len(body) < OFFLOAD_BYTES else await asyncio.to_thread(parse, body)


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"the number {digits[:40]} is too large")
    return number


def _deeper_than(value: Any, most: int) -> bool:
    level, depth = [value], 0
    while level:
        if depth > most:
            return True
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner.extend(v for v in item.values() if isinstance(v, dict | list))
            elif isinstance(item, list):
                inner.extend(v for v in item if isinstance(v, dict | list))
        level, depth = inner, depth + 1
    return False

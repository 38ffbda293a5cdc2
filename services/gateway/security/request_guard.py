"""The guard in front of every route: it checks the key, then limits the body, then calls the route.

It is pure ASGI, so that a caller without a key is rejected after the headers, before any of the body is read.
"""

from __future__ import annotations

import asyncio
import collections
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from fastapi import Response
from prometheus_client import CollectorRegistry, Counter
from starlette.exceptions import HTTPException

from accelerator_autopilot.contracts.errors import BusyError
from accelerator_autopilot.contracts.ids import new_id
from accelerator_autopilot.gateway.http.problem_details import detail_of, retry_after, status_of
from accelerator_autopilot.gateway.http.request_bodies import MemoryBudget, Receive, Share, read_body, weigh
from accelerator_autopilot.gateway.security.key_file import Caller, KeyRing
from accelerator_autopilot.gateway.security.roles import NO_KEY, too_low
from accelerator_autopilot.gateway.security.route_access import Access, AccessTable
from accelerator_autopilot.runtime.failure_description import failure_fields

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Send = Callable[[Any], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# A reader that takes nothing for this long is gone, whatever its connection says.
SEND_TIMEOUT_S = 60.0
LINGER_S, LINGER_BYTES = 1.0, 2**20
SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"),
    (b"cache-control", b"no-store"),
)


class RefusedError(Exception):
    """A request that the guard rejects."""

    def __init__(self, status: int, detail: str) -> None:
        self.status, self.detail = status, detail
        super().__init__(detail)


@dataclass
class Exchange:
    """One request and its response."""

    scope: Scope
    send_on: Send
    status: int = 0
    cleanups: list[Callable[[], None]] = field(default_factory=list)

    async def send(self, message: Any) -> None:
        """Send a part of the response, adding the common headers to its head. Raises TimeoutError."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            given = list(message.get("headers", []))
            names = {name.lower() for name, _ in given}
            message = {**message, "headers": given + [h for h in SECURITY_HEADERS if h[0] not in names]}
        async with asyncio.timeout(SEND_TIMEOUT_S):
            await self.send_on(message)

    def header(self, name: bytes) -> str | None:
        """Return a header of the request."""
        found = next((value for key, value in self.scope["headers"] if key == name), None)
        return found.decode("latin-1") if found is not None else None


class RequestGuard:
    """Admits requests with a known key, a sufficient role, and a body within its limits."""

    def __init__(
        self,
        app: App,
        *,
        table: AccessTable,
        keys: KeyRing,
        budget: MemoryBudget,
        registry: CollectorRegistry,
        refused: Callable[[str, int], None],
        most_at_once: int,
    ) -> None:
        self._most_at_once, self._at_once = most_at_once, collections.Counter[str]()
        self._app, self._table, self._keys, self._budget, self._refused = app, table, keys, budget, refused
        self._requests = Counter(
            "autopilot_http_requests", "HTTP requests", ["method", "route", "status"], registry=registry
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._answer(Exchange(scope, send), receive)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _answer(self, exchange: Exchange, receive: Receive) -> None:
        scope, share = exchange.scope, Share(self._budget)
        access = self._table.of(scope)
        try:
            try:
                length = self._let_in(exchange, access)
                body = await self._body(exchange, receive, length, access, share)
                if body is not None:
                    await self._app(scope, _once(body, receive), exchange.send)
            except (RefusedError, HTTPException, BusyError) as error:
                if exchange.status:
                    raise
                await self._reject(exchange, receive, access, error)
            except Exception as error:  # noqa: BLE001  every request gets an answer
                await self._failed(exchange, access, error)
        finally:
            share.give_back()
            for cleanup in exchange.cleanups:
                cleanup()
            method = scope["method"] if scope["method"] in METHODS else "other"
            self._requests.labels(method, access.path, exchange.status or "none").inc()

    def _let_in(self, exchange: Exchange, access: Access) -> int | None:
        """Return the declared length of the body; None without. Raises RefusedError."""
        state = exchange.scope["state"] = dict(exchange.scope.get("state") or {})
        state["cleanups"] = exchange.cleanups
        caller = self._caller(exchange)
        if access.least is not None:
            if caller is None:
                raise RefusedError(401, NO_KEY if self._given(exchange) is None else "this API key is unknown")
            if caller.role < access.least:
                raise RefusedError(403, too_low(access.least, caller))
            state["caller"] = caller
            self._count(exchange, caller.user)
        declared = exchange.header(b"content-length")
        if declared is None:
            return None
        if not (declared.isascii() and declared.isdigit() and len(declared) < 20):
            raise RefusedError(400, f"content-length {declared[:40]!r} is not a number")
        return int(declared)

    def _count(self, exchange: Exchange, user: str) -> None:
        """Count a request until it ends: one user must leave connections for the others. Raises RefusedError."""
        if self._at_once[user] >= self._most_at_once:
            raise RefusedError(429, f"{user} has {self._most_at_once} requests in progress, the maximum")
        self._at_once[user] += 1

        def over() -> None:
            self._at_once[user] -= 1
            if not self._at_once[user]:
                del self._at_once[user]

        exchange.cleanups.append(over)

    def _caller(self, exchange: Exchange) -> Caller | None:
        given = self._given(exchange)
        return self._keys.find(given) if given is not None else None

    @staticmethod
    def _given(exchange: Exchange) -> str | None:
        key = exchange.header(b"x-api-key")
        if key is not None:
            return key
        scheme, _, token = (exchange.header(b"authorization") or "").partition(" ")
        return token.strip() if scheme.lower() == "bearer" and token.strip() else None

    async def _body(
        self, exchange: Exchange, receive: Receive, length: int | None, access: Access, share: Share
    ) -> bytes | None:
        if not length and exchange.header(b"transfer-encoding") is None and exchange.scope["method"] in {"GET", "HEAD"}:
            return b""
        body = await read_body(receive, length, access.most_bytes, share)
        if body:
            await weigh(body, share)
        return body

    async def _reject(
        self, exchange: Exchange, receive: Receive, access: Access, error: RefusedError | HTTPException | BusyError
    ) -> None:
        if isinstance(error, BusyError):
            response = retry_after(error, access.refusal(503, str(error)))
        else:
            status = error.status if isinstance(error, RefusedError) else error.status_code
            response = access.refusal(status, error.detail)
            if status == 401:
                client = exchange.scope.get("client")
                self._refused(client[0] if client else "unknown", status)
            elif status == 429:
                response.headers["Retry-After"] = "1"
        unread = exchange.header(b"transfer-encoding") is not None or (exchange.header(b"content-length") or "0") != "0"
        if unread:
            # The rest of the body is not read, so the connection cannot be reused.
            response.headers["Connection"] = "close"
        await self._send(exchange, response, receive if unread else None)

    async def _failed(self, exchange: Exchange, access: Access, error: Exception) -> None:
        status = status_of(error)
        if exchange.status:
            # The head is already sent: only closing the connection signals that the rest is missing.
            log.info("response aborted", extra={"route": access.path, "error": type(error).__name__})
            raise error
        if status != 500:
            await self._send(exchange, retry_after(error, access.refusal(status, detail_of(error))), None)
            return
        identity = new_id()
        log.error("request failed", extra={"route": access.path, "id": identity} | failure_fields(error))
        detail = f"unexpected error; the gateway's log has it under {identity}"
        await self._send(exchange, access.refusal(500, detail), None)

    @staticmethod
    async def _send(exchange: Exchange, response: Response, unread: Receive | None) -> None:
        await exchange.send(
            {"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers}
        )
        body = bytes(response.body)
        if unread is not None:
            await exchange.send({"type": "http.response.body", "body": body, "more_body": True})
            await _linger(unread)
            body = b""
        await exchange.send({"type": "http.response.body", "body": body})


async def _linger(receive: Receive) -> None:
    """Read a little of the rest: closing with unread bytes would reset the connection and lose the response."""
    taken = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(LINGER_S):
            while taken < LINGER_BYTES:
                message = await receive()
                taken += len(message.get("body", b""))
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return


def _once(body: bytes, receive: Receive) -> Receive:
    """Yield the body as one message, then pass on further events: the end of the connection."""
    sent = False

    async def next_message() -> Any:
        nonlocal sent, body
        if not sent:
            sent = True
            message = {"type": "http.request", "body": body, "more_body": False}
            body = b""
            return message
        return await receive()

    return next_message

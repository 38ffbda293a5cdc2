"""Posts a signed webhook; refuses receivers inside the network unless the operator allows them."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket
from datetime import datetime
from urllib.parse import urlsplit

import httpx
from standardwebhooks.webhooks import Webhook

from services.notifier.domain.formats import CONTENT_TYPES, SIGNED, Body
from shared.errors import AutopilotError, InvalidInputError, UnavailableError
from shared.messages.notices import Subscription

LIMITS = httpx.Limits(max_connections=16, max_keepalive_connections=2, keepalive_expiry=30.0)


class RefusedTargetError(AutopilotError):
    """The receiver's address is not allowed."""


class WebhookReceiver:
    """An HTTP client a subscription, so that one that hangs holds no other's connections.

    Redirects are not followed, so none can lead inside.
    """

    def __init__(self, timeout_s: float, *, private_targets: bool) -> None:
        self._timeout_s, self._private_targets = timeout_s, private_targets
        self._clients: dict[str, httpx.AsyncClient] = {}
        # Loading the authorities takes longer than a delivery: once is enough.
        self._tls = httpx.create_ssl_context(trust_env=False)

    async def post(self, subscription: Subscription, message_id: str, at: datetime, body: Body) -> int:
        """Post and return the status. Raises UnavailableError for anything but a 2xx, RefusedTargetError."""
        url = str(subscription.url)
        address = await self._resolve(url)
        data = json.dumps(body)
        headers = {"Content-Type": CONTENT_TYPES.get(subscription.channel, "application/json")}
        if subscription.channel in SIGNED:
            headers |= _signature(subscription.secret, message_id, at, data)
        # The address that was checked is the one that is used: a name cannot change in between.
        parts = urlsplit(url)
        headers["Host"] = parts.netloc.rsplit("@", 1)[-1]
        pinned = httpx.URL(url).copy_with(host=address)
        extensions = {"sni_hostname": parts.hostname or ""}
        try:
            response = await self._client(subscription.id).post(
                pinned, content=data, headers=headers, extensions=extensions
            )
        except httpx.HTTPError as error:
            raise UnavailableError(f"{type(error).__name__}") from error
        if not response.is_success:
            raise UnavailableError(f"status {response.status_code}")
        return response.status_code

    async def _resolve(self, url: str) -> str:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            found = await asyncio.get_running_loop().getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise UnavailableError(f"{parts.hostname} does not resolve") from error
        addresses = [str(entry[4][0]) for entry in found]
        if not self._private_targets:
            inside = [a for a in addresses if not ipaddress.ip_address(a.split("%")[0]).is_global]
            if inside:
                raise RefusedTargetError(
                    f"{parts.hostname} is {inside[0]}, which is not a public address; "
                    "AUTOPILOT_WEBHOOK_PRIVATE_TARGETS=true allows it"
                )
        return addresses[0]

    def _client(self, subscription_id: str) -> httpx.AsyncClient:
        client = self._clients.get(subscription_id)
        if client is None:
            client = httpx.AsyncClient(
                timeout=self._timeout_s, follow_redirects=False, trust_env=False, verify=self._tls, limits=LIMITS
            )
            self._clients[subscription_id] = client
        return client

    async def forget(self, subscription_id: str) -> None:
        """Close what a subscription held."""
        client = self._clients.pop(subscription_id, None)
        if client is not None:
            await client.aclose()

    async def close(self) -> None:
        """Close every client."""
        for subscription_id in list(self._clients):
            await self.forget(subscription_id)


def _signature(secret: str, message_id: str, at: datetime, data: str) -> dict[str, str]:
    """Headers of Standard Webhooks. Raises InvalidInputError for a secret that is none."""
    try:
        signature = Webhook(secret).sign(message_id, at, data)
    except Exception as error:  # the library raises bare exceptions for a bad secret
        raise InvalidInputError("secret", "…", "is no Standard Webhooks secret") from error
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": signature,
    }

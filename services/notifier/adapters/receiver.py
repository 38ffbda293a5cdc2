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


class RefusedTargetError(AutopilotError):
    """The receiver's address is not allowed."""


class WebhookReceiver:
    """One HTTP client for all receivers; redirects are not followed, so none can lead inside."""

    def __init__(self, timeout_s: float, *, private_targets: bool) -> None:
        self._client = httpx.AsyncClient(timeout=timeout_s, follow_redirects=False, trust_env=False)
        self._private_targets = private_targets

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
            response = await self._client.post(pinned, content=data, headers=headers, extensions=extensions)
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

    async def close(self) -> None:
        """Close the client."""
        await self._client.aclose()


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

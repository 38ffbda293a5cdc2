"""Post signed webhooks; receivers inside the network are refused unless the operator allows them."""

from __future__ import annotations

import ipaddress
import json
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from standardwebhooks.webhooks import Webhook

from accelerator_autopilot.contracts.errors import InvalidInputError, UnavailableError
from accelerator_autopilot.contracts.messages.notifications import Subscription
from accelerator_autopilot.notifier.domain.message_formats import CONTENT_TYPES, SIGNED, Body
from accelerator_autopilot.notifier.errors import RefusedTargetError

if TYPE_CHECKING:
    from accelerator_autopilot.notifier.adapters.http_client import WebhookClient


_NAT64 = ipaddress.ip_network("64:ff9b::/96")
# Addresses that stand for others (6to4, Teredo, local NAT64, compatible ones), are unroutable, or obsolete.
_NEVER = tuple(
    ipaddress.ip_network(net)
    for net in (
        "2002::/16", "2001::/23", "64:ff9b:1::/48", "::/96", "fec0::/10", "3fff::/20", "5f00::/16", "100::/64",
        "192.88.99.0/24", "0.0.0.0/8",
    )
)  # fmt: skip


def is_public(address: str) -> bool:
    """Whether an address is the public address of one host, also in the IPv6 forms that embed an IPv4 address."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return is_public(str(ip.ipv4_mapped))
        if ip in _NAT64:
            return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
    special = ip.is_multicast or ip.is_reserved or ip.is_unspecified
    return ip.is_global and not special and not any(ip in net for net in _NEVER if net.version == ip.version)


class AiohttpWebhookSender:
    """One HTTP client, created at the first post: a notifier without subscriptions saves its 10 MB."""

    def __init__(self, timeout_s: float, *, private_targets: bool) -> None:
        self._timeout_s, self._private_targets = timeout_s, private_targets
        self._client: WebhookClient | None = None

    async def post(self, subscription: Subscription, message_id: str, at: datetime, body: Body) -> int:
        """Post and return the status. Raises UnavailableError for anything but a 2xx, RefusedTargetError."""
        url = str(subscription.url)
        data = json.dumps(body)
        headers = {"Content-Type": CONTENT_TYPES.get(subscription.channel, "application/json")}
        if subscription.channel in SIGNED:
            headers |= _signature(subscription.secret, message_id, at, data)
        self._check_literal(url)
        if self._client is None:
            from accelerator_autopilot.notifier.adapters.http_client import WebhookClient  # noqa: PLC0415  see above

            self._client = WebhookClient(self._timeout_s, self.check)
        status = await self._client.post(url, data, headers)
        if not 200 <= status < 300:
            raise UnavailableError(f"the receiver returned status {status}")
        return status

    def _check_literal(self, url: str) -> None:
        # A literal address bypasses the resolver.
        host = urlsplit(url).hostname or ""
        with suppress(ValueError):
            self.check(host, str(ipaddress.ip_address(host)))

    def check(self, host: str, address: str) -> None:
        """Raise RefusedTargetError for an address inside the network, unless the operator allows those."""
        if not self._private_targets and not is_public(address.split("%", maxsplit=1)[0]):
            raise RefusedTargetError(
                f"{host} is {address}, which is not a public address; AUTOPILOT_WEBHOOK_PRIVATE_TARGETS=true allows it"
            )

    async def close(self) -> None:
        """Close every connection."""
        if self._client is not None:
            await self._client.close()


def _signature(secret: str, message_id: str, at: datetime, data: str) -> dict[str, str]:
    """Return the headers of Standard Webhooks. Raises InvalidInputError for an invalid secret."""
    try:
        signature = Webhook(secret).sign(message_id, at, data)
    except Exception as error:  # the library raises bare exceptions for a bad secret
        raise InvalidInputError("secret", "…", "is not a Standard Webhooks secret") from error
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": signature,
    }

"""Post over aiohttp, only to addresses that were checked."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping

import aiohttp
from aiohttp.abc import ResolveResult

from accelerator_autopilot.contracts.errors import UnavailableError

Check = Callable[[str, str], None]


class CheckedResolver(aiohttp.ThreadedResolver):
    """Resolves names for the connector, which connects to the checked address: DNS cannot change in between."""

    def __init__(self, check: Check) -> None:
        super().__init__()
        self._check = check

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return every address of a name. Raises OSError, and what the check of host and address raises."""
        found = await super().resolve(host, port, family)
        for entry in found:
            self._check(host, entry["host"])
        return found


class WebhookClient:
    """An HTTP client without a connection limit: each subscription limits its own posts.

    Redirects are not followed, so none can lead inside the network.
    """

    def __init__(self, timeout_s: float, check: Check) -> None:
        connector = aiohttp.TCPConnector(resolver=CheckedResolver(check), limit=0)
        self._session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=timeout_s))

    async def post(self, url: str, data: str, headers: Mapping[str, str]) -> int:
        """Post, and return the status. Raises UnavailableError where there is none, and what the check raises."""
        try:
            async with self._session.post(url, data=data, headers=headers, allow_redirects=False) as response:
                return response.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise UnavailableError(f"{type(error).__name__}") from error

    async def close(self) -> None:
        """Close every connection."""
        await self._session.close()

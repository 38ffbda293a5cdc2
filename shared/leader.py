"""One leader among any number of processes: a key that expires unless renewed.

The revision at which a leader created the key only ever grows, so it is the fencing token that
its commands carry.
"""

from __future__ import annotations

import asyncio
import logging

import nats.errors
from nats.js import JetStreamContext
from nats.js.errors import APIError

from shared.supervision import beat

log = logging.getLogger(__name__)

LEASE_S = 5.0
RENEW_S = 1.5


class Leadership:
    """Whether this process leads in one role, and with which token."""

    def __init__(self, js: JetStreamContext, name: str, role: str) -> None:
        self._js, self.name, self._role = js, name, role
        self._revision = 0
        self._token = 0
        self._renewed_at = 0.0

    @property
    def token(self) -> int | None:
        """The fencing token while the lease holds."""
        fresh = asyncio.get_running_loop().time() - self._renewed_at < LEASE_S - 0.5
        return self._token if self._token and fresh else None

    async def run(self) -> None:
        """Take the lease when it is free and renew it, until cancelled."""
        try:
            await self._hold()
        finally:
            await self._resign()

    async def _hold(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            beat()
            asked_at = loop.time()
            try:
                kv = await self._js.key_value("leader")
                if self._token:
                    self._revision = await kv.update(self._role, self.name.encode(), last=self._revision)
                else:
                    self._revision = self._token = await kv.create(self._role, self.name.encode())
                    log.info("leading", extra={"role": self._role, "fencing_token": self._token})
                self._renewed_at = asked_at
            except APIError:
                if self._token:
                    log.warning("leadership lost", extra={"fencing_token": self._token})
                self._token = 0
            except (nats.errors.Error, OSError) as error:
                log.info("lease not renewed", extra={"error": type(error).__name__})
            await asyncio.sleep(RENEW_S if self._token else 0.5)

    async def _resign(self) -> None:
        """Let another lead at once."""
        if self._token:
            token, self._token = self._token, 0
            try:
                kv = await self._js.key_value("leader")
                await kv.delete(self._role, last=self._revision)
            except (APIError, nats.errors.Error, OSError):
                log.info("lease left to expire", extra={"fencing_token": token})

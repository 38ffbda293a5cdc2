"""Elect one leader among any number of processes: a key that expires unless renewed.

The revision at which a leader created the key is the fencing token of its commands. The key contains it, so that
executors can check whose token counts; they must not take the higher one for the newer, because the revisions of a
recreated bucket start over.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

import nats.errors
from nats.js import JetStreamContext
from nats.js.errors import APIError, BucketNotFoundError, KeyNotFoundError, NotFoundError
from nats.js.kv import KeyValue

from accelerator_autopilot.contracts.errors import UnavailableError
from accelerator_autopilot.contracts.streams import BUCKETS
from accelerator_autopilot.runtime.supervision import beat

log = logging.getLogger(__name__)

LEASE_S = 5.0
RENEW_S = 1.5


BUCKET = "leader"


async def leading_token(js: JetStreamContext, role: str) -> int | None:
    """Return the fencing token of a role's current leader; None while there is none. Raises UnavailableError."""
    try:
        entry = await (await js.key_value(BUCKET)).get(role)
    except (KeyNotFoundError, BucketNotFoundError):
        return None
    except (APIError, nats.errors.Error, OSError) as error:
        raise UnavailableError(f"the leader of {role} could not be read: {type(error).__name__}") from error
    token = (entry.value or b"").rpartition(b" ")[2]
    # Python refuses numbers of thousands of digits, and the server counts in 64 bits.
    return int(token) if token.isdigit() and len(token) < 20 else None


def _value(name: str, token: int) -> bytes:
    return f"{name} {token}".encode()


async def _bucket(js: JetStreamContext) -> KeyValue:
    try:
        return await js.key_value(BUCKET)
    except (BucketNotFoundError, NotFoundError):
        # Nobody leads without it, and nothing else recreates it while services run.
        config = next(bucket for bucket in BUCKETS if bucket.bucket == BUCKET)
        return await js.create_key_value(replace(config))


class LeaderElection:
    """Whether this process leads in one role, and with which token."""

    def __init__(self, js: JetStreamContext, name: str, role: str) -> None:
        self._js, self.name, self._role = js, name, role
        self._revision = 0
        self._token = 0
        self._renewed_at = 0.0

    @property
    def token(self) -> int | None:
        """The fencing token while the lease is held."""
        fresh = asyncio.get_running_loop().time() - self._renewed_at < LEASE_S - 0.5
        return self._token if self._token and fresh else None

    async def run(self) -> None:
        """Acquire the lease when it is free and renew it, until cancelled."""
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
                kv = await _bucket(self._js)
                if not self._token:
                    token = await kv.create(self._role, self.name.encode())
                    self._revision = await kv.update(self._role, _value(self.name, token), last=token)
                    self._token = token
                    log.info("leading", extra={"role": self._role, "fencing_token": token})
                else:
                    value = _value(self.name, self._token)
                    self._revision = await kv.update(self._role, value, last=self._revision)
                self._renewed_at = asked_at
            except APIError:
                if self._token:
                    log.warning("leadership lost", extra={"fencing_token": self._token})
                self._token = 0
            except (nats.errors.Error, OSError) as error:
                log.info("lease not renewed", extra={"error": type(error).__name__})
            await asyncio.sleep(RENEW_S if self._token else 0.5)

    async def _resign(self) -> None:
        """Release the lease, so that another process can lead at once."""
        if self._token:
            token, self._token = self._token, 0
            try:
                kv = await self._js.key_value(BUCKET)
                await kv.delete(self._role, last=self._revision)
            except (APIError, nats.errors.Error, OSError):
                log.info("lease left to expire", extra={"fencing_token": token})

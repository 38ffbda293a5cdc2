"""The gateway's connection to NATS, and its supervision."""

from __future__ import annotations

import asyncio
import logging
import os

import nats.errors

from accelerator_autopilot.client import AutopilotClient
from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.errors import UnavailableError
from accelerator_autopilot.gateway.settings import GatewaySettings
from accelerator_autopilot.runtime.health import HealthState
from accelerator_autopilot.runtime.supervision import beat
from accelerator_autopilot.transport.connection import can_come_back

log = logging.getLogger(__name__)

STUCK_S = 10.0
WRITE_INTERVAL_S = 5.0
WRITTEN_WITHIN_S = 20.0


class NatsConnection:
    """A client whose unexpected end terminates the process: a closed one never reconnects."""

    def __init__(self, settings: GatewaySettings, health: HealthState) -> None:
        self._settings, self._health = settings, health
        self._expected = False
        self.client = AutopilotClient(settings, name="gateway", actor="gateway", on_closed=self._closed)

    async def open(self) -> AutopilotClient:
        """Connect, retrying forever."""
        while True:
            try:
                return await self.client.__aenter__()
            except UnavailableError as error:
                self._health.tick()
                self._health.report("nats", ok=False, reason=str(error))
                await asyncio.sleep(0.5)

    async def close(self) -> None:
        """Close on purpose."""
        self._expected = True
        await self.client.__aexit__(None, None, None)

    async def watch(self) -> None:
        """Update liveness and readiness until cancelled; exit when the connection can never come back."""
        loop = asyncio.get_running_loop()
        hope = loop.time()
        while True:
            beat()
            nc = self.client.nc
            if not nc.is_closed:
                self._health.tick()
            if can_come_back(nc):
                hope = loop.time()
            elif loop.time() - hope > STUCK_S:
                log.critical("NATS client neither connected nor reconnecting; exiting")
                end_process()
            self._health.report("nats", ok=nc.is_connected, reason="not connected")
            await asyncio.sleep(0.5)

    async def prove_writes(self) -> None:
        """Write something small every few seconds: the gateway is ready while that is confirmed."""
        key = f"gateway-{subjects.token(self._settings.node)}"
        while True:
            beat()
            try:
                bucket = await self.client.js.key_value("probes")
                await bucket.put(key, b"1")
            except (nats.errors.Error, OSError) as error:
                self._health.report("write", ok=False, reason=f"JetStream rejected a write: {type(error).__name__}")
            else:
                self._health.report("write", ok=True, max_age_s=WRITTEN_WITHIN_S)
            await asyncio.sleep(WRITE_INTERVAL_S)

    async def _closed(self) -> None:
        if not self._expected:
            log.critical("NATS connection closed permanently; exiting")
            end_process()


def end_process() -> None:
    """Exit immediately: the supervisor starts a new process."""
    os._exit(1)

"""Restore devices' defaults when leases end, whether or not the broker is reachable."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from accelerator_autopilot.contracts.errors import UnavailableError
from accelerator_autopilot.contracts.messages.commands import CommandOutcome
from accelerator_autopilot.runtime.supervision import beat
from accelerator_autopilot.telemetry.agent.application.power_control import PowerControl

log = logging.getLogger(__name__)

CHECK_S, REASSERT_PERIOD_S = 0.5, 15.0
MAX_UNPUBLISHED = 1000


@dataclass
class LeaseExpiry:
    """Two loops: one over devices, which never waits for the broker, and one that publishes outcomes."""

    power: PowerControl
    publish: Callable[[CommandOutcome], Awaitable[None]]
    _unpublished: deque[CommandOutcome] = field(default_factory=lambda: deque(maxlen=MAX_UNPUBLISHED))
    _more: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Restore expired leases and reassert the others, until cancelled."""
        loop = asyncio.get_running_loop()
        checked = loop.time()
        while True:
            beat()
            if loop.time() - checked > REASSERT_PERIOD_S:
                checked = loop.time()
                await self.power.reassert()
            outcomes = await self.power.restore_expired(self.power.clock())
            if outcomes:
                self._unpublished.extend(outcomes)
                self._more.set()
            await asyncio.sleep(CHECK_S)

    async def run_publisher(self) -> None:
        """Publish outcomes, retrying each until the stream stores it."""
        while True:
            await self._more.wait()
            self._more.clear()
            while self._unpublished:
                try:
                    await self.publish(self._unpublished[0])
                except UnavailableError as error:
                    log.warning("outcome not published yet", extra={"error": str(error)})
                    await asyncio.sleep(1.0)
                    continue
                self._unpublished.popleft()

"""What operators and broken hardware do meanwhile: caps with leases, some renewed, and critical faults of devices."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field

from accelerator_autopilot.client import AutopilotClient
from accelerator_autopilot.contracts.messages.telemetry import SimulationRequest
from tests.chaos.soak.load import TRANSIENT

CAP_EVERY_S = 2.0
FAULT_EVERY_S = 6.0
LEASE_S = (3.0, 8.0)
CRITICAL_XIDS = (48, 62, 95, 119)

Device = tuple[str, str]


@dataclass
class Operators:
    """Works on devices that no pool uses, so that jobs have theirs to themselves."""

    client: AutopilotClient
    devices: list[Device]
    dice: random.Random
    done: Counter[str] = field(default_factory=Counter)

    async def cap(self) -> None:
        """Cap a device; every third time renew the lease once, else let it lapse."""
        renewals: set[asyncio.Task[None]] = set()
        while True:
            node, device = self.dice.choice(self.devices)
            lease_s = self.dice.uniform(*LEASE_S)
            # The floor of the policy is half of the default; a renewal differs, so that a frame tells which it is.
            cap_w = self.dice.uniform(155.0, 240.0)
            await self._cap(node, device, cap_w, lease_s)
            if self.dice.random() < 1 / 3:
                renewal = asyncio.create_task(self._renew(node, device, cap_w + 2.0, lease_s))
                renewals.add(renewal)
                renewal.add_done_callback(renewals.discard)
            await asyncio.sleep(CAP_EVERY_S)

    async def _renew(self, node: str, device: str, cap_w: float, lease_s: float) -> None:
        await asyncio.sleep(lease_s / 2)
        await self._cap(node, device, cap_w, lease_s)

    async def _cap(self, node: str, device: str, cap_w: float, lease_s: float) -> None:
        try:
            await self.client.steering.cap_power(node, device, round(cap_w, 1), lease_s=lease_s, reason="soak")
        except TRANSIENT:
            self.done["caps not confirmed"] += 1
        else:
            self.done["caps"] += 1

    async def break_devices(self) -> None:
        """A critical fault of one device after the other, each only once: a second one would raise no new alert."""
        left = list(self.devices)
        self.dice.shuffle(left)
        for node, device in left:
            request = SimulationRequest(device=device, xid=self.dice.choice(CRITICAL_XIDS))
            try:
                await self.client.steering.simulate(node, request)
            except TRANSIENT:
                self.done["faults not taken"] += 1
            else:
                self.done["faults of devices"] += 1
            await asyncio.sleep(FAULT_EVERY_S)

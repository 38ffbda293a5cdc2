"""Select the active policy: evaluate all policies on the fleet's last day, and monitor the active one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from prometheus_client import Gauge

from accelerator_autopilot.contracts.errors import AutopilotError, InvalidInputError
from accelerator_autopilot.contracts.messages.commands import ChampionStatus, FleetPolicy
from accelerator_autopilot.runtime.bus import BUS_ERRORS, Bus
from accelerator_autopilot.scheduler.domain.champion_challenger import (
    BLOCK_S,
    ChampionChallenger,
    Choice,
    ExpectedRange,
    choose,
)
from accelerator_autopilot.scheduler.domain.fleet_history import FleetHistory
from accelerator_autopilot.scheduler.ports import PastReader
from accelerator_autopilot.transport.clock import Clock

log = logging.getLogger(__name__)

BLOCK = timedelta(seconds=BLOCK_S)


@dataclass
class PolicyEvaluator:
    """Evaluates policies periodically, and checks every block of live operation."""

    past: PastReader
    bus: Bus
    champion_challenger: ChampionChallenger
    names: Sequence[str]
    clock: Clock
    leads: Callable[[], bool]
    deciding: Gauge
    replay_every: timedelta
    replayed: timedelta = timedelta(days=1)

    async def run(self) -> None:
        """Run forever."""
        self._publish()
        next_replay = self.clock() + BLOCK
        while True:
            await asyncio.sleep(BLOCK_S)
            now = self.clock()
            if not self.leads():
                # The leader evaluates, and stores its choice for the next leader.
                continue
            try:
                if now >= next_replay:
                    next_replay = now + self.replay_every
                    await self.replay(now)
                await self.watch(now)
            except (AutopilotError, *BUS_ERRORS) as error:
                # Without history, the fleet continues with the current policy.
                log.info("policy evaluation skipped", extra={"reason": str(error)})

    async def replay(self, now: datetime) -> Choice:
        """Simulate every policy on the recorded history. Raises UnavailableError or InvalidInputError."""
        past = await self.past.read_past(now - self.replayed, now)
        policy = await self.bus.policy()
        choice, band = await asyncio.to_thread(self._judge, past, policy)
        before = self.champion_challenger.champion
        self.champion_challenger.select(choice, band)
        log.info("champion", extra={"champion": choice.champion, "before": before, "why": choice.why})
        await self._keep(now, choice.why)
        return choice

    def _judge(self, past: FleetHistory, policy: FleetPolicy) -> tuple[Choice, ExpectedRange]:
        # The twin imports a compiler; a scheduler that never evaluates need not load it.
        from accelerator_autopilot.scheduler.application.twin_replay import interval_s, past_pools, played  # noqa: PLC0415

        pools = past_pools(past, policy, None, None)
        replays = {n: o.blocks(round(BLOCK_S / interval_s(past))) for n, o in played(pools, self.names).items()}
        choice = choose(self.champion_challenger.champion, replays)
        return choice, replays[choice.champion].band

    async def watch(self, now: datetime) -> None:
        """Compare the last block with the prediction. Raises UnavailableError."""
        policy = await self.bus.policy()
        slack_s = {name: bounds.target_wait_s for name, bounds in policy.pools.items()}
        block = await self.past.read_block(now - BLOCK, now, slack_s, policy.pool("").target_wait_s)
        if block.energy_j is None:
            return
        fell = self.champion_challenger.live(block.jobs, block.late, block.energy_j * block.jobs)
        if fell:
            log.warning("champion demoted", extra={"why": fell, "deciding": self.champion_challenger.deciding})
            await self._keep(now, fell)

    async def _keep(self, now: datetime, why: str) -> None:
        self._publish()
        if self.leads():
            status = ChampionStatus(
                champion=self.champion_challenger.champion, deciding=self.champion_challenger.deciding, why=why, at=now
            )
            await self.bus.write("scheduler", "champion", status)

    async def restore(self) -> None:
        """Restore the champion that was selected before a restart."""
        kept = await self.bus.read("scheduler", "champion", ChampionStatus)
        if kept is None:
            return
        if kept.champion not in self.names:
            raise InvalidInputError(
                "champion", kept.champion, "is not a policy of this version: the next evaluation selects another"
            )
        self.champion_challenger.champion = kept.champion

    def _publish(self) -> None:
        self.deciding.clear()
        self.deciding.labels(self.champion_challenger.deciding).set(1)
